"""What a user of `tintlab evaluate` sees: figures of one model, several compared, and mistakes."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lab_data_set import noise, row_of, write_data_set

from pipelines.__main__ import main
from tintlab.config import ExperimentConfig, Workspace
from tintlab.model.artifact import load_model, save_model
from tintlab.model.colorizer import Colorizer
from tintlab.tracking.evaluations import evaluate_model, flat_metrics
from tintlab.tracking.models import FoundModel
from tintlab.tracking.store import connect, experiment_id

SETTINGS = {
    "model.depth": 1,
    "bins.per_channel": 9,
    "evaluation.crop_px": 16,
    "evaluation.samples_per_photo": 1,
    "evaluation.lpips_net": "none",
}
PHOTOS = 8


def model_folder(folder: Path, spread: float, changed: dict[str, object] | None = None) -> str:
    config = ExperimentConfig().replaced({**SETTINGS, **(changed or {})})
    torch.manual_seed(0)
    model = Colorizer(config.model, config.bins)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=spread)
    save_model(model, config, folder)
    return str(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and models: one that guesses evenly, one that is sure of wrong colours."""
    root = tmp_path_factory.mktemp("evaluate")
    photos = [row_of(noise(20, 18, i), "train" if i < 4 else "test") for i in range(4 + PHOTOS)]
    write_data_set(str(root / "shards"), [photos])
    model_folder(root / "even", 0.02)
    model_folder(root / "sure", 0.5)
    model_folder(root / "other_bins", 0.02, {"bins.per_channel": 15})
    return root


def called(
    capsys: pytest.CaptureFixture[str], place: Path, *argv: str, code: int = 0
) -> dict[str, Any]:
    capsys.readouterr()
    shared = ["--shards", str(place / "shards"), "--workspace", str(place / "ws"), "--json"]
    assert main(["evaluate", *argv, *shared]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_one_model_is_measured_once_and_remembered(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = called(capsys, place, str(place / "even"))
    assert first["images"] == PHOTOS
    low, high = first["intervals"]["psnr_db"]
    assert low < first["psnr_db"] < high
    folder = Path(first["folder"])
    made = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {"report.html", "per_image.parquet", "best.png", "summary.json"} <= made.keys()
    assert called(capsys, place, str(place / "even")) == first
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == made


def test_progress_goes_to_stderr_and_figures_to_stdout(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = model_folder(place / "fresh", 0.05)
    capsys.readouterr()
    argv = ["evaluate", fresh, "--shards", str(place / "shards"), "--workspace", str(place / "ws")]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert f"{PHOTOS} photos" in said.err
    assert "psnr_db" in said.out
    assert said.out.strip().endswith("report.html")
    assert "evaluate:" not in said.out


def test_models_are_compared_on_the_same_photos(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(place / name) for name in ("even", "sure")]
    document = called(capsys, place, *names)
    (comparison,) = document["comparisons"]
    assert comparison["verdict"].startswith(f"{names[0]} is better than {names[1]}")
    by_metric = {found["metric"]: found for found in comparison["differences"]}
    bits = by_metric["bits_per_dim"]
    tables = [
        pq.read_table(Path(called(capsys, place, name)["folder"]) / "per_image.parquet")
        for name in names
    ]
    gain = tables[1]["bits_per_dim"].to_numpy() - tables[0]["bits_per_dim"].to_numpy()
    assert bits["gain"]["mean"] == pytest.approx(gain.mean())
    assert bits["wins"] == (gain > 0).sum()
    folder = Path(document["folder"])
    assert {"comparison.json", "comparison.png", "report.html"} == {
        file.name for file in folder.iterdir()
    }
    assert json.loads((folder / "comparison.json").read_text()) == document


def test_bits_of_models_with_other_bins_are_not_compared(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = called(capsys, place, str(place / "even"), str(place / "other_bins"))
    (comparison,) = document["comparisons"]
    assert comparison["verdict"].startswith("bits per dimension do not compare")
    assert "bits_per_dim" not in {found["metric"] for found in comparison["differences"]}


def test_a_model_of_other_settings_is_compared_under_those_of_the_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = model_folder(place / "other_crop", 0.3, {"evaluation.crop_px": 12})
    document = called(capsys, place, str(place / "even"), other, str(place / "sure"))
    assert len(document["comparisons"]) == 2
    assert {one["photos"] for one in document["comparisons"]} == {PHOTOS}


def test_a_models_run_has_its_figures_as_its_own_settings_measure_them(
    place: Path, migrated: Path, tmp_path: Path
) -> None:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    workspace = Workspace.at(str(tmp_path))
    client = connect(workspace)
    run_id = client.create_run(experiment_id(client, workspace, "train")).info.run_id
    found = FoundModel("run", place / "even", run_id, None)
    shards_uri = str(place / "shards")
    kept = evaluate_model(workspace, found, shards_uri)
    logged = client.get_run(run_id).data.metrics
    assert logged == flat_metrics(kept.summary, "test")
    assert logged["test/psnr_db_low"] < logged["test/psnr_db"] < logged["test/psnr_db_high"]
    names = {file.path for file in client.list_artifacts(run_id, "evaluation/test")}
    assert {f"evaluation/test/{name}" for name in ("summary.json", "report.html")} <= names
    # A comparison may have to measure it as another model is: that is not what this run reports.
    own = load_model(place / "even")[1].evaluation
    others = own.model_copy(update={"temperature": 0.0})
    otherwise = evaluate_model(workspace, found, shards_uri, settings=others)
    assert otherwise.summary["psnr_db"] != kept.summary["psnr_db"]
    assert client.get_run(run_id).data.metrics == logged
    # The batch size is no part of the protocol.
    same = evaluate_model(
        workspace, found, shards_uri, settings=own.model_copy(update={"batch_size": 3})
    )
    assert same.folder == kept.folder


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["MODEL", "--workers", "0"], 2, "workers must be at least 1, got 0; 1 needs no Ray"),
        (["MODEL", "--split", "val"], 3, "the val split holds no photo to evaluate on"),
        (["MODEL", "--split", "trial"], 2, "no split 'trial'"),
        (["SHARDS"], 7, "must be 'tintlab-model'"),
        (["MODEL", "MODEL"], 2, "a comparison needs different models"),
        (["CUT"], 7, "holds the weights of another architecture"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    code: int,
    message: str,
) -> None:
    if "CUT" in argv and not (place / "cut").exists():
        _with_config_of(place / "other_bins", place / "even", place / "cut")
    names = {"MODEL": "even", "SHARDS": "shards", "CUT": "cut"}
    given = [str(place / names[word]) if word in names else word for word in argv]
    error = called(capsys, place, *given, code=code)["error"]
    assert message in error["message"]
    assert "\n" not in error["message"]


def _with_config_of(config: Path, weights: Path, folder: Path) -> None:
    """A model folder that is whole, with a config whose bins are not its weights'."""
    folder.mkdir()
    manifest = json.loads((weights / "manifest.json").read_text())
    for name, source in (("model.safetensors", weights), ("config.json", config)):
        content = (source / name).read_bytes()
        (folder / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
