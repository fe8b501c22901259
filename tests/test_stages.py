"""The stages end to end, through the command: photos -> shards -> sweep -> champion -> colours.

One small sweep of a tiny model is run once; the tests look at what it left from different sides.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines.__main__ import main
from tintlab.color.lab import out_of_gamut, srgb_to_lab
from tintlab.config import Workspace
from tintlab.data.shards import open_shards
from tintlab.tracking.reading import run_config

TINY = [
    "--training.steps", "12", "--training.eval-every-steps", "4", "--training.batch-size", "8",
    "--data.crop-px", "16", "--evaluation.crop-px", "16", "--evaluation.panel-images", "2",
    "--model.depth", "1",
]  # fmt: skip
SPACE = '''"""Does a cycle help a tiny model?"""
from optuna.distributions import CategoricalDistribution, FloatDistribution
from tintlab.sweep.space import SearchSpace
SPACE = SearchSpace(
    search={
        "schedule.kind": CategoricalDistribution(("cosine", "triangular")),
        "schedule.peak_lr": FloatDistribution(1e-4, 2e-2, log=True),
    },
    start=({"schedule.kind": "cosine", "schedule.peak_lr": 2e-2},),
    num_trials=3,
)
'''

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)  # Ray's and MLflow's own


def called(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def swept(
    ray_cluster: None, shards_uri: str, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The arguments of a sweep that has been run."""
    file = place / "tiny_cycles.py"
    file.write_text(SPACE)
    argv = ["sweep", str(file), *TINY, "--workspace", str(place / "ws"), "--shards", shards_uri]
    assert main([*argv, "--name", "tiny", "--trials-at-once", "1"]) == 0
    return [*argv, "--name", "tiny"]


def client(place: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{place}/ws/mlflow.db")


def test_a_sweep_leaves_one_parent_and_one_child_per_trial(swept: list[str], place: Path) -> None:
    store = client(place)
    experiment = store.get_experiment_by_name("tiny_cycles")
    runs = store.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert len(children) == 3
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.tags["question"] == "Does a cycle help a tiny model?"
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert run.info.status in ("FINISHED", "KILLED")
        assert run.data.params["model.depth"] == "1"
        steps = [m.step for m in store.get_metric_history(run.info.run_id, "val/bits_per_dim")]
        assert steps == [4, 8, 12][: len(steps)]
        assert steps
        pictures = [a.path for a in store.list_artifacts(run.info.run_id, "images")]
        assert sum("val~panel+step" in path for path in pictures) >= len(steps)
        assert run.inputs.dataset_inputs[0].dataset.digest
    assert any(run.info.status == "FINISHED" for run in children)


def test_a_run_holds_what_the_documentation_says(swept: list[str], place: Path) -> None:
    documented = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    store = client(place)
    experiment = store.get_experiment_by_name("tiny_cycles")
    runs = store.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    trial = next(run for run in runs if "mlflow.parentRunId" in run.data.tags)
    logged = {name for run in runs for name in run.data.metrics}
    assert [name for name in sorted(logged) if f"`{name}`" not in documented] == []
    always = {"train/bits_per_dim", "val/bits_per_dim", "val/psnr_db", "val/ssim", "lr"}
    always |= {"val/colorfulness_ratio", "perf/images_per_s", "system/disk_available_megabytes"}
    assert always <= trial.data.metrics.keys()
    config = run_config(Workspace.at(str(place / "ws")), trial.info.run_id)
    assert trial.data.params == {key: str(value) for key, value in config.flat().items()}
    tags = ("seed", "group", "sweep_id", "trial_id", "tintlab.identity", "mlflow.user")
    assert trial.data.tags.keys() >= set(tags)
    (dataset,) = trial.inputs.dataset_inputs
    assert {"fingerprint", "train", "val", "test"} <= json.loads(dataset.dataset.profile).keys()
    files = {file.path for file in store.list_artifacts(trial.info.run_id)}
    assert files >= {"config.json", "environment.txt", "images", "model"}


def test_a_trial_that_cannot_succeed_is_told_with_its_reason_and_not_tried_again(
    ray_cluster: None, shards_uri: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place / "too_large.py"
    file.write_text(
        '"""How large may a crop be?"""\n'
        "from optuna.distributions import CategoricalDistribution\n"
        "from tintlab.sweep.space import SearchSpace\n"
        "SPACE = SearchSpace(\n"
        '    search={"data.crop_px": CategoricalDistribution((16, 1000))}, exhaustive=True\n'
        ")\n"
    )
    at = TINY.index("--data.crop-px")  # which is searched
    argv = ["sweep", str(file), *TINY[:at], *TINY[at + 2 :], "--shards", shards_uri, "--json"]
    argv += ["--workspace", str(place / "failing"), "--trials-at-once", "1"]
    capsys.readouterr()
    assert main(argv) == 4
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "failed"]
    assert trials[1]["reason"].startswith("crop_px=1000 is larger than photo")
    assert trials[1]["runs"][0]["failure"] == "settings"
    store = MlflowClient(tracking_uri=f"sqlite:///{place}/failing/mlflow.db")
    experiment = store.get_experiment_by_name("too_large")
    runs = store.search_runs([experiment.experiment_id], "tags.trial_id != ''")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]


def test_the_same_sweep_again_changes_nothing(
    swept: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = called(capsys, *swept)
    second = called(capsys, *swept)
    assert first == second
    assert [t["attempts"] for t in second["trials"]] == [1, 1, 1]
    scores = [t["score"] for t in second["trials"] if t["state"] == "complete"]
    assert scores == sorted(scores)


def test_a_changed_sweep_of_the_same_name_is_refused(
    swept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    document = called(capsys, *swept, "--training.seed", "5", code=2)
    assert "training.seed: 0 -> 5" in document["error"]["message"]


def test_the_best_becomes_champion_once_and_colours_grey_photos(
    swept: list[str], place: Path, shards_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = ["--workspace", str(place / "ws")]
    photos = place / "grey"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("wide", (30, 50)), ("odd", (37, 23))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(photos / f"{name}.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    out = place / "colored"

    missing = called(capsys, "colorize", str(photos), "--out", str(out), *workspace, code=3)
    assert "tintlab promote" in missing["error"]["message"]
    assert not out.exists()

    run_id = called(capsys, *swept)["best"]["run_id"]
    argv = ["promote", "--run", run_id, "--shards", shards_uri, *workspace]
    planned = called(capsys, *argv, "--dry-run")
    assert planned["version"] is None
    promoted = called(capsys, *argv)
    assert (promoted["version"], promoted["changed"]) == (1, True)
    again = called(capsys, *argv)
    assert (again["version"], again["changed"]) == (1, False)
    bits = promoted["candidate"]["bits_per_dim"]
    assert bits["uniform"] == pytest.approx(math.log2(33))
    assert set(bits) >= {"uniform", "marginal", "parallel", "autoregressive"}

    colored = called(capsys, "colorize", str(photos), "--out", str(out), *workspace, code=4)
    assert (colored["inputs"], colored["colored"]) == (3, 2)
    assert colored["model"] == "@champion (version 1)"
    for name in ("wide", "odd"):
        grey = np.array(Image.open(photos / f"{name}.png").convert("RGB"))
        painted = np.array(Image.open(out / f"{name}.png"))
        assert painted.shape == grey.shape
        before, after = srgb_to_lab(grey), srgb_to_lab(painted)
        assert not out_of_gamut(after).any()
        assert np.abs(before[..., 0] - after[..., 0]).max() <= 1.0
        assert np.abs(after[..., 1:]).max() > 5  # colours, not grey


def test_train_runs_on_ray_train_and_a_worse_run_does_not_become_champion(
    ray_cluster: None, place: Path, shards_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Follows the test above: a champion is there, and this run learns next to nothing."""
    data = ["--workspace", str(place / "ws"), "--shards", shards_uri]
    slow = ["--schedule.peak-lr", "1e-6", "--schedule.base-lr", "1e-7"]
    argv = ["train", *TINY, *slow, *data, "--name", "one"]
    first = called(capsys, *argv)
    assert first["steps"] == 12
    run = client(place).get_run(first["run_id"])
    assert run.info.status == "FINISHED"
    assert {"config.json", "environment.txt", "images", "model"} <= {
        a.path for a in client(place).list_artifacts(first["run_id"])
    }

    planned = called(
        capsys, "train", "--from-run", first["run_id"], *data, "--dry-run", "--model.depth", "2"
    )
    assert planned["config"]["training"]["steps"] == 12
    assert planned["config"]["model"]["depth"] == 2

    changed = called(capsys, *argv, "--training.seed", "9", code=2)
    assert "training.seed=0, got 9" in changed["error"]["message"]

    refused = called(capsys, "promote", "--run", first["run_id"], *data, code=6)
    assert "the champion stays" in refused["error"]["message"]


def test_no_test_photo_is_trained_on(shards_uri: str) -> None:
    shards = open_shards(shards_uri)
    ids = {split: set(shards.ids(split)) for split in ("train", "val", "test")}
    pixels = {
        split: {
            shards.photo(split, i).L.tobytes() + shards.photo(split, i).ab.tobytes()
            for i in range(shards.count(split))
        }
        for split in ids
    }
    for mine, theirs in (("train", "test"), ("train", "val"), ("val", "test")):
        assert not ids[mine] & ids[theirs]
        assert not pixels[mine] & pixels[theirs]
    assert all(len(pixels[split]) == shards.count(split) > 0 for split in ids)


def test_a_folder_without_manifest_is_no_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = called(capsys, "train", "--shards", str(tmp_path), "--dry-run", code=3)
    assert "no manifest.json; run tintlab prepare" in document["error"]["message"]


@pytest.mark.parametrize("files", [{}, {"a.jpg": b"", "b.png": b"not a picture"}])
def test_nothing_to_prepare_is_said_and_leaves_nothing(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, bytes]
) -> None:
    (tmp_path / "photos").mkdir()
    for name, content in files.items():
        (tmp_path / "photos" / name).write_bytes(content)
    argv = ["prepare", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    called(capsys, *argv, code=3)
    assert not (tmp_path / "out" / "manifest.json").exists()
