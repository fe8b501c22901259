"""`tintlab sweep` as a user meets it: seeds, going on, budgets, and what cannot work."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lab_data_set import noise, row_of, write_data_set
from mlflow import MlflowClient

from pipelines.__main__ import main
from tintlab.config import Workspace
from tintlab.errors import EnvironmentFault
from tintlab.settings import TrainingConfig
from tintlab.sweep.opening import stored_record
from tintlab.sweep.run import fitting, require_nodes, resources_of

TINY = [
    "--training.steps", "8", "--training.eval-every-steps", "4", "--training.batch-size", "4",
    "--data.crop-px", "16", "--evaluation.crop-px", "16", "--evaluation.panel-images", "1",
    "--bins.per-channel", "7", "--model.depth", "1", "--trials-at-once", "1", "--json",
]  # fmt: skip
SPACE = '''"""How fast may a tiny model learn?"""
from optuna.distributions import FloatDistribution
from tintlab.sweep.space import SearchSpace
SPACE = SearchSpace(
    search={{"schedule.peak_lr": FloatDistribution(1e-4, {high}, log=True)}},
    num_trials=2, stopping="none", {more}
)
'''

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)  # Ray's and MLflow's own


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "shards"
    return data_set(folder, seed=0)


def data_set(folder: Path, seed: int) -> str:
    rows = [row_of(noise(24, 24, seed + n), "train") for n in range(8)]
    write_data_set(str(folder), [[*rows, row_of(noise(24, 24, seed + 99), "val")]])
    return str(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    """A workspace with a tracking database."""
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "mlflow.db").write_bytes(migrated.read_bytes())
    return folder


def space(folder: Path, more: str = "", high: float = 2e-2) -> str:
    file = folder / "rates.py"
    file.write_text(SPACE.format(more=more, high=high))
    return str(file)


def called(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    ended = main(["sweep", *argv])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert ended == code, document
    return document


def test_seeds_are_runs_of_one_configuration_and_the_sweep_goes_on_by_its_name(
    ray_cluster: None,
    shards: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = space(place, more="replicates=2")
    argv = [file, *TINY, "--workspace", str(place), "--shards", shards, "--name", "seeds"]
    first = called(capsys, *argv)
    for trial in first["trials"]:
        scores = [run["metrics"]["val/bits_per_dim"] for run in trial["runs"]]
        assert trial["score"] == pytest.approx(sum(scores) / 2)
        assert [run["seed"] for run in trial["runs"]] == [0, 1]
        assert [list(run["curve"]) for run in trial["runs"]] == [["4", "8"]] * 2
    assert first["best"]["run_id"] in {run["run_id"] for run in first["best"]["runs"]}

    store = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    experiment = store.get_experiment_by_name("rates")
    runs = store.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run.data.tags for run in runs if run != parent]
    assert parent.data.tags["best_run_id"] == first["best"]["run_id"]
    assert {tags["mlflow.parentRunId"] for tags in children} == {parent.info.run_id}
    told = [(tags["trial_id"], tags["replicate"], tags["seed"]) for tags in children]
    assert sorted(told) == [("0", "0", "0"), ("0", "1", "1"), ("1", "0", "0"), ("1", "1", "1")]
    groups = {tags["trial_id"]: tags["group"] for tags in children}
    assert all(groups[tags["trial_id"]] == tags["group"] for tags in children)
    assert len(set(groups.values())) == 2

    # What is complete needs no cluster, whichever way it is asked for.
    monkeypatch.setattr("tintlab.sweep.run.connect", lambda workspace: pytest.fail("it ran"))
    again = ["--json", "--workspace", str(place)]
    assert called(capsys, *argv) == first
    assert called(capsys, "--resume", "seeds", *again) == first
    monkeypatch.undo()

    more = called(capsys, "--resume", "seeds", *again, "--num-trials", "3")
    assert len(more["trials"]) == 3
    assert [trial for trial in more["trials"] if trial["number"] < 2] == [
        trial for trial in more["trials"] if trial["number"] != 2
    ]
    unknown = called(capsys, "--resume", "seed", *again, code=2)["error"]["message"]
    assert unknown == "no sweep 'seed'; there are: seeds"


def test_a_changed_space_data_set_or_code_is_refused_by_name_and_accepted_on_request(
    ray_cluster: None,
    shards: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = space(tmp_path)
    called(
        capsys,
        *(file, *TINY, "--workspace", str(place), "--shards", shards, "--name", "changed"),
        *("--num-trials", "1"),
    )
    again = ["--resume", "changed", "--json", "--workspace", str(place)]
    space(tmp_path, high=3e-2)
    said = called(capsys, *again, code=2)["error"]["message"]
    assert re.search(
        r"schedule.peak_lr: float 0.0001 to 0.02, log -> float 0.0001 to 0.03, log", said
    ), said
    space(tmp_path)
    other = data_set(tmp_path / "other", seed=1000)
    said = called(capsys, *again, "--shards", other, code=2)["error"]["message"]
    assert re.search(r"data set: \w+ -> \w+", said)
    assert "--accept-changes" in said
    monkeypatch.setattr("tintlab.sweep.opening.code_that_trains", lambda: {"loop.py": "x"})
    said = called(capsys, *again, code=2)["error"]["message"]
    assert "code that trains:" in said
    assert called(capsys, *again, "--accept-changes")["overrides"] != []
    record = stored_record(Workspace.at(str(place)), "changed")
    (line,) = record.overrides
    assert line.startswith("code that trains:")


def test_a_budget_ends_a_sweep_with_its_result_and_a_larger_one_continues_it(
    ray_cluster: None, shards: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [space(place), *TINY, "--workspace", str(place), "--shards", shards, "--name", "target"]
    ended = called(capsys, *argv, "--sweep.target", "99", code=8)
    assert [trial["state"] for trial in ended["trials"]] == ["complete"]
    assert ended["ended"].startswith("sweep.target=99 is reached: trial 0 has")
    whole = called(capsys, *argv)
    assert [trial["state"] for trial in whole["trials"]] == ["complete", "complete"]
    assert whole["ended"] == "all 2 trials have ended"
    for option in ("hours", "gpu-hours", "patience-trials", "failed-share"):
        said = called(capsys, *argv, f"--sweep.{option}", "0", code=2)["error"]["message"]
        assert f"sweep.{option.replace('-', '_')} must be greater than" in said


def test_a_metric_that_no_run_reports_ends_the_sweep_at_the_first_report(
    ray_cluster: None, shards: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = space(tmp_path, more='objectives={"val/beauty": "max"}, sampler="nsga2"')
    argv = [file, *TINY, "--workspace", str(place), "--shards", shards, "--name", "beauty"]
    said = called(capsys, *argv, code=2)["error"]["message"]
    assert "val/beauty" in said
    assert "val/bits_per_dim" in said


def test_a_name_that_asks_something_else_is_a_conflict(
    ray_cluster: None, shards: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "speeds.py"
    other.write_text(Path(space(place)).read_text())
    argv = [*TINY, "--workspace", str(place), "--shards", shards, "--num-trials", "1"]
    called(capsys, space(place), *argv, "--name", "taken")
    said = called(capsys, str(other), *argv, "--name", "taken", code=5)["error"]["message"]
    assert "sweep 'taken' asks rates: How fast may a tiny model learn?" in said


def test_a_database_that_is_away_is_said_in_time_and_without_its_password(
    shards: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [space(place), *TINY, "--workspace", str(place), "--shards", shards]
    argv += ["--sweep.storage", "postgresql+none://me:hunter2hunter2@127.0.0.1:1/sweeps"]
    said = called(capsys, *argv, code=3)["error"]["message"]
    assert "hunter2" not in said
    assert "the sweeps' database postgresql+none://" in said


def test_what_no_cluster_here_can_hold_is_refused_at_once(
    ray_cluster: None, shards: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [space(place), *TINY, "--workspace", str(place), "--shards", shards, "--name", "big"]
    said = called(capsys, *argv, "--training.gpus-per-worker", "8", code=3)["error"]["message"]
    assert "training.gpus_per_worker=8, but no node has more than 0 GPU" in said


def test_a_node_must_have_the_gpus_of_one_worker_however_many_the_cluster_has() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}] * 4
    require_nodes(TrainingConfig(gpus_per_worker=2), nodes)
    require_nodes(TrainingConfig(gpus_per_worker=0.5), nodes)
    with pytest.raises(EnvironmentFault, match="=4, but no node has more than 2 GPU"):
        require_nodes(TrainingConfig(gpus_per_worker=4), nodes)


def test_a_run_takes_the_share_of_a_gpu_it_asks_for_and_a_driver_no_core(ray_cluster: None) -> None:
    share = TrainingConfig(gpus_per_worker=0.25)
    assert resources_of(share, 8) == {"CPU": 1.0, "GPU": 0.25}
    several = TrainingConfig(workers=2, gpus_per_worker=1)
    assert resources_of(several, 4) == {"trial_slot": 1.0}


def test_no_more_runs_start_together_than_have_room() -> None:
    there = {"CPU": 16.0, "GPU": 4.0}
    assert fitting(TrainingConfig(workers=2, gpus_per_worker=1), 8, there) == 2
    assert fitting(TrainingConfig(gpus_per_worker=0.25), 20, there) == 16
    assert fitting(TrainingConfig(workers=16), 8, there) == 1
    assert fitting(TrainingConfig(), 3, there) == 3
