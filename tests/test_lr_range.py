"""The range test: it trains as training does, stops where it should, and leaves a curve only."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from small_shards import small_shards

from pipelines import train as train_stage
from pipelines.__main__ import main
from tintlab.config import ExperimentConfig, Workspace
from tintlab.console import parse
from tintlab.data.shards import Shards, open_shards
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.training import lr_range, lr_range_tracked
from tintlab.training.loop import TrainingDiverged, train
from tintlab.training.lr_range import Curve, Point, Rise, range_test, suggested
from tintlab.training.lr_range_report import picture, text
from tintlab.training.objective import Objective
from tintlab.training.progress import Progress

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

SETTINGS = {
    "data.crop_px": 16,
    "evaluation.crop_px": 16,
    "bins.per_channel": 8,
    "model.depth": 1,
    "training.batch_size": 8,
}
TINY = ExperimentConfig().replaced(SETTINGS)
FLAGS = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
WIDE = Rise(1e-4, 1.0, 40)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def shards(uri: str) -> Shards:
    return open_shards(uri)


@pytest.fixture
def place(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ws").mkdir()
    shutil.copy(migrated, tmp_path / "ws" / "mlflow.db")
    return Workspace.at(str(tmp_path / "ws"))


def runs(place: Workspace) -> list[Any]:
    client = MlflowClient(tracking_uri=place.tracking_uri)
    found = client.get_experiment_by_name("lr-range")
    return list(client.search_runs([found.experiment_id])) if found else []


def ignored(_: Progress) -> None:
    """Nobody looks."""


def synthetic(loss_at, low: float, high: float, steps: int = 100) -> Curve:
    rise = Rise(low, high, steps)
    rates = [rise.rate(step) for step in range(steps)]
    points = (Point(step, lr, loss_at(math.log10(lr))) for step, lr in enumerate(rates, start=1))
    return Curve(tuple(points), "")


def fall(x: float) -> float:
    """From 6 to 2 around a rate of 1e-3, with a logistic of width 1/4; up again from 1e-1 on."""
    return 2 + 4 / (1 + math.exp(4 * (x + 3))) + 20 * max(0.0, x + 1) ** 2


def test_the_bounds_are_where_a_known_fall_starts_and_slows() -> None:
    found = suggested(synthetic(fall, 1e-6, 1.0))
    assert found is not None
    # The logistic has done 5 % at -3 - ln(19) / 4 and 75 % at -3 + ln(3) / 4.
    assert found.base_lr == pytest.approx(10 ** (-3 - math.log(19) / 4), rel=0.2)
    assert found.peak_lr == pytest.approx(10 ** (-3 + math.log(3) / 4), rel=0.2)
    assert found.notes == ()


def test_noise_moves_the_bounds_little_and_is_no_fall_by_itself() -> None:
    draw = np.random.default_rng(0)
    noisy = suggested(synthetic(lambda x: fall(x) + draw.normal(0, 0.15), 1e-6, 1.0))
    clean = suggested(synthetic(fall, 1e-6, 1.0))
    assert noisy is not None
    assert clean is not None
    assert noisy.peak_lr == pytest.approx(clean.peak_lr, rel=0.25)
    assert noisy.base_lr == pytest.approx(clean.base_lr, rel=0.6)
    for steps in (20, 100, 400):
        flat = synthetic(lambda x: 6 + draw.normal(0, 0.1), 1e-6, 1e-4, steps)
        assert suggested(flat) is None
        assert "no suggestion: the loss did not fall" in text(flat, None)
    assert suggested(synthetic(lambda x: 6 + x, 1e-3, 1.0)) is None  # it only rises


@pytest.mark.parametrize(
    ("low", "high", "notes"),
    [
        (1e-6, 1e-3, ["still falling at the end: raise --max-lr"]),
        (1e-3, 1.0, ["fell from the first step on: lower --min-lr"]),
        (1e-6, 1.0, []),
    ],
)
def test_a_bound_that_the_range_cuts_off_is_said(low: float, high: float, notes: list[str]) -> None:
    curve = synthetic(fall, low, high)
    found = suggested(curve)
    assert found is not None
    assert len(found.notes) == len(notes)
    for note, said in zip(notes, found.notes, strict=True):
        assert note in said
        assert f"note: {said}" in text(curve, found)


def test_the_picture_and_the_text_mark_both_rates() -> None:
    curve = synthetic(fall, 1e-6, 1.0)
    found = suggested(curve)
    marked, bare = picture(curve, found), picture(curve, None)
    assert marked.shape == bare.shape == (450, 800, 3)
    assert np.any(marked != bare)
    assert "<- base_lr" in text(curve, found)
    assert f"--schedule.peak-lr {found.peak_lr:g}" in text(curve, found)


def test_it_trains_as_training_does_with_rates_that_rise_by_the_formula(shards, tmp_path) -> None:
    steps: list[Progress] = []
    before = torch.get_rng_state()
    curve = range_test(TINY, shards, Rise(1e-5, 1e-2, 20), steps.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert [point.step for point in curve.points] == list(range(1, 21))
    assert [(p.step, p.lr, p.loss) for p in steps] == [(p.step, p.lr, p.loss) for p in curve.points]
    expected = np.geomspace(1e-5, 1e-2, 20)
    assert [point.lr for point in curve.points] == pytest.approx(list(expected), rel=1e-12)
    assert curve.ended == ""
    # The second loss is what the first step, at min_lr, made of the first weights.
    constant = {"schedule.kind": "constant", "schedule.peak_lr": 1e-5, "schedule.base_lr": 0}
    config = TINY.replaced({**constant, "training.steps": 2})
    trained: list[float] = []
    told = (lambda *_: ({}, None), lambda _: None, None, lambda p: trained.append(p.loss))
    train(config, shards, tmp_path, *told)
    assert [point.loss for point in curve.points[:2]] == trained


def test_the_share_of_several_workers_is_computed_here(shards) -> None:
    rise = Rise(1e-4, 1e-2, 20)
    two = range_test(TINY.replaced({"training.workers": 2}), shards, rise, ignored)
    parts = range_test(TINY.replaced({"training.accumulation": 2}), shards, rise, ignored)
    assert two == parts


def test_it_ends_where_the_training_diverges(shards, monkeypatch) -> None:
    monkeypatch.setattr(lr_range, "DIVERGED", 2.0)  # eight photos do not let it grow to 4 in time
    curve = range_test(TINY, shards, Rise(1e-3, 1.0, 60), ignored)
    assert curve.ended == "the loss was 2 times its lowest"
    assert 10 < len(curve.points) < 60
    found = suggested(curve)
    assert found is not None
    assert found.base_lr < found.peak_lr < curve.points[-1].lr
    assert f"ended after step {len(curve.points)}" in text(curve, found)


@pytest.mark.parametrize("call", [1, 2, 5])
def test_a_loss_that_is_no_number_ends_it_unless_it_is_the_first(shards, monkeypatch, call) -> None:
    real, calls = Objective.forward, iter(range(1, 1_000))

    def forward(objective, *arguments):
        total, values = real(objective, *arguments)
        bad = math.nan if next(calls) == call else 1.0
        return total * bad, values * bad

    monkeypatch.setattr(Objective, "forward", forward)
    if call == 1:
        with pytest.raises(TrainingDiverged, match="diverged at step 1"):
            range_test(TINY, shards, WIDE, ignored)
        return
    curve = range_test(TINY, shards, WIDE, ignored)
    assert len(curve.points) == call - 1
    assert "was not a finite number" in curve.ended
    assert suggested(curve) is None
    assert curve.ended in text(curve, None)
    assert picture(curve, None).shape == (450, 800, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.0, 1.0, 100), "--min-lr must be above 0, got 0"),
        ((math.nan, 1.0, 100), "--min-lr must be above 0, got nan"),
        ((1e-2, 1e-4, 100), "at least 10 times --min-lr=0.01 .*got 0.0001; try 1"),
        ((1e-3, 5e-3, 100), "at least 10 times --min-lr=0.001 .*got 0.005; try 1"),
        ((1e-5, 3.0, 100), "at most 1, got 3; try 0.1"),
        ((1e-5, math.nan, 100), "got nan"),
        ((1e-5, 1.0, 19), "--steps must be at least 20, got 19"),
    ],
)
def test_a_rise_that_is_none_is_one_line(given, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Rise(*given)


def called(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["lr-range", *FLAGS, *argv, "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_command_leaves_a_run_with_curve_and_picture_and_no_checkpoint(
    uri: str, place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = Path(place.checkpoints) / "train_lr-range"  # as of a training of the same name
    trained.mkdir(parents=True)
    (trained / "experiment.json").write_text("{}")
    where = ["--shards", uri, "--workspace", place.root, "--min-lr", "1e-4", "--steps", "25"]
    found = called(capsys, *where)
    assert [path.name for path in Path(place.checkpoints).rglob("*")] == [
        "train_lr-range",
        "experiment.json",
    ]
    assert found["picture"] == f"{place.reports}/lr_range.png"
    with Image.open(found["picture"]) as image:
        assert image.size == (800, 450)
    assert 1e-4 <= found["base_lr"] < found["peak_lr"] < 1
    assert [point["step"] for point in found["curve"]] == list(range(1, len(found["curve"]) + 1))

    (run,) = runs(place)
    assert (run.info.run_id, run.info.status) == (found["run_id"], "FINISHED")
    client = MlflowClient(tracking_uri=place.tracking_uri)
    for key in ("lr", "loss"):
        history = client.get_metric_history(run.info.run_id, f"range/{key}")
        logged = {point.step: point.value for point in history}
        assert logged == {point["step"]: point[key] for point in found["curve"]}
        assert len(history) == len(logged)
    assert run.data.metrics["range/peak_lr"] == found["peak_lr"]
    assert run.data.params["range.steps"] == "25"
    assert run.data.params["model.depth"] == "1"
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert sum(path.endswith(".png") for path in pictures) == 1

    # The flags are taken up by the command that they are for.
    command = parse(train_stage.Command, found["flags"], "train", train_stage.defaults([]))
    assert command.experiment.schedule.peak_lr == found["peak_lr"]
    assert command.experiment.schedule.base_lr == found["base_lr"]

    # Again, it is the same curve in a run of its own; on a range too low there is none.
    again = called(capsys, *where)
    assert again["curve"] == found["curve"]
    assert again["run_id"] != found["run_id"]
    assert len(client.get_metric_history(found["run_id"], "range/lr")) == len(found["curve"])
    low = called(capsys, *where, "--min-lr", "1e-9", "--max-lr", "1e-7", code=4)
    assert (low["peak_lr"], low["flags"]) == (None, [])


def test_a_dry_run_and_a_mistake_change_nothing(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--shards", uri, "--workspace", str(tmp_path / "ws")]
    plan = called(capsys, *where, "--dry-run")
    assert plan["rise"] == {"min_lr": 1e-5, "max_lr": 1.0, "steps": 100}
    assert plan["config"]["model"]["depth"] == 1
    assert plan["data_fingerprint"] == open_shards(uri).manifest.fingerprint
    error = called(capsys, *where, "--steps", "5", code=2)["error"]
    assert "--steps must be at least 20, got 5" in error["message"]
    missing = called(capsys, "--workspace", str(tmp_path / "ws"), code=3)["error"]
    assert "run tintlab prepare" in missing["message"]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_test_is_a_killed_run(uri: str, place: Workspace) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    out = f"{place.reports}/lr_range.png"
    with pytest.raises(KeyboardInterrupt):
        lr_range_tracked.find_rates(TINY, place, uri, WIDE, "stopped", out, stop)
    (run,) = runs(place)
    assert run.info.status == "KILLED"
    assert not Path(out).exists()


def test_a_picture_that_cannot_be_written_is_in_the_run(uri: str, place: Workspace) -> None:
    (Path(place.root) / "file").write_text("")
    out = f"{place.root}/file/lr_range.png"
    with pytest.raises(EnvironmentFault, match=r"give another --out \(run \w+ has the picture\)"):
        lr_range_tracked.find_rates(TINY, place, uri, Rise(1e-4, 1e-2, 20), "x", out, ignored)
    (run,) = runs(place)
    assert run.info.status == "FINISHED"
