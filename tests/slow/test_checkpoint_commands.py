"""`tintlab train` itself, with workspaces at URIs, other trainings, and checkpoints of others.

pytest tests/slow/test_checkpoint_commands.py -s -m slow
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from figures import Figure
from mlflow import MlflowClient
from small_shards import small_shards

from tintlab.model.artifact import load_model
from tintlab.training.checkpoints import MANIFEST, Checkpoints, read_state, seal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
TINY = [
    "--training.batch-size", "8", "--data.crop-px", "16", "--evaluation.crop-px", "16",
    "--evaluation.panel-images", "1", "--evaluation.lpips-net", "none", "--model.depth", "1",
]  # fmt: skip
SHORT = ["--training.steps", "6", "--training.eval-every-steps", "2"]
LONG = ["--training.steps", "800", "--training.eval-every-steps", "25"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_shards(tmp_path_factory.mktemp("shards"), validation=2)


class Command:
    """`tintlab train` on one workspace, with a tracking database of its own."""

    def __init__(self, workspace: str, shards: str, folder: Path, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        store = f"sqlite:///{folder}/mlflow.db"
        MlflowClient(store).create_experiment("train", artifact_location=str(folder / "artifacts"))
        self.store = MlflowClient(store)
        self._argv = [sys.executable, "-m", "pipelines", "train", "--json", "--name", "x"]
        self._argv += ["--workspace", workspace, "--shards", shards, *TINY]
        path = f"{Path(__file__).parent / 'bucket'}:{os.environ.get('PYTHONPATH', '')}"
        self._environment = {
            **os.environ, "MLFLOW_TRACKING_URI": store, "PYTHONPATH": path, **environment
        }  # fmt: skip

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._argv, *options],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str, code: int = 0) -> tuple[dict[str, Any], str]:
        """The document it prints, and what it says meanwhile."""
        return ended(self.start(*options), code)


def ended(process: subprocess.Popen[str], code: int) -> tuple[dict[str, Any], str]:
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, f"{out}\n{err[-3000:]}"
    document: dict[str, Any] = json.loads(out)
    return document, err


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def same_model(one: Path, other: Path) -> bool:
    ours, theirs = (load_model(folder)[0].state_dict() for folder in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_one_of_two_commands_trains_and_a_killed_one_is_continued(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    """In a workspace at a file:// URI, and with Ray's own snapshots of the killed one torn."""
    place = tmp_path / "ws"
    command = Command(f"file://{place}", shards, tmp_path)
    run = place / "checkpoints" / "train_x"
    first = command.start(*LONG)
    until_s = time.monotonic() + 200
    while not Checkpoints(run).all() and time.monotonic() < until_s and first.poll() is None:
        time.sleep(0.1)
    began_s = time.monotonic()
    refused, _ = command.run(*LONG, code=5)
    refused_s = time.monotonic() - began_s
    assert first.poll() is None, "the first must still be at work; make LONG longer"
    holder = json.loads((run / ".lock").read_text())["process"]
    names_holder = f"being trained by process {holder} on " in refused["error"]["message"]
    figure(
        "Checkpoints",
        "a second `tintlab train` of the same name while the first trains",
        f"exit {refused['error']['code']} after {refused_s:.0f} s, "
        f"{'naming' if names_holder else 'not naming'} the holder; the first goes on",
        "exit 5, naming the holder",
    )
    assert names_holder

    first.send_signal(signal.SIGKILL)
    first.communicate()
    killed_at = Checkpoints(run).all()[-1]
    attempts = [path for path in (place / "ray").iterdir() if path.is_dir()]
    assert attempts
    for attempt in attempts:
        # Ray keeps one of checkpoints that it was handed; it is handed none.
        (attempt / "checkpoint_manager_snapshot.json").write_text('{"ray_version": "2.')
    torn = [path for path in (place / "ray").rglob("*") if path.is_file()]
    for path in torn:
        path.write_bytes(path.read_bytes()[:19])
    finished, _ = command.run(*LONG)
    runs = command.store.search_runs([command.store.get_experiment_by_name("train").experiment_id])
    steps = [
        point.step
        for point in command.store.get_metric_history(runs[0].info.run_id, "val/bits_per_dim")
    ]
    straight, _ = Command(str(tmp_path / "straight"), shards, tmp_path / "straight").run(*LONG)
    equal = same_model(Path(finished["model"]), Path(straight["model"]))
    figure(
        "Checkpoints",
        f"`tintlab train` killed (SIGKILL) after {killed_at.name}, and Ray's own snapshot "
        "truncated; the same command again",
        f"exit 0, {len(runs)} MLflow run, final weights {'bit-equal' if equal else 'differ'}",
        "exit 0, 1 run, bit-equal to an uninterrupted run",
    )
    assert equal
    assert len(runs) == 1
    assert steps == list(range(25, 801, 25))
    assert read_state(Checkpoints(run).all()[-1]).step == 800


def test_a_training_on_an_object_store_ends_at_a_failed_upload_and_goes_on(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    command = Command("bucket://ws", shards, tmp_path, BUCKET=str(bucket))
    (bucket / "fail").write_text("step-00000004/optimizer.safetensors")
    broken, _ = command.run(*SHORT, code=3)
    message = broken["error"]["message"]
    run = bucket / "ws" / "checkpoints" / "train_x"
    intact = list(Checkpoints(run).all()) == [run / "step-00000002"]
    named = "bucket://ws/checkpoints/train_x/step-00000004, which needs " in message
    (bucket / "fail").unlink()
    finished, _ = command.run(*SHORT)
    again, _ = command.run(*SHORT)
    straight, _ = Command(str(tmp_path / "straight"), shards, tmp_path / "straight").run(*SHORT)
    equal = same_model(run / "model", Path(straight["model"]))
    figure(
        "Checkpoints",
        "`tintlab train` in a workspace without renames, an upload broken off halfway; then the "
        "same command",
        f"exit {broken['error']['code']}, earlier checkpoint "
        f"{'intact' if intact else 'damaged'}; then exit 0, "
        f"final weights {'bit-equal' if equal else 'differ'}",
        "exit 3, intact, bit-equal to a run on a local disk",
    )
    assert intact
    assert named
    assert equal
    assert again == finished
    assert finished["model"] == "bucket://ws/checkpoints/train_x/model"


def test_checkpoints_of_another_kind_are_one_line_and_stay_as_they_are(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    command = Command(str(tmp_path / "ws"), shards, tmp_path)
    command.run(*SHORT)
    run = tmp_path / "ws" / "checkpoints" / "train_x"
    (run / "outcome.json").unlink()
    told = []

    before = content(run)
    other, _ = command.run(*SHORT, "--model.depth", "2", code=2)
    told.append("started with model.depth=1, got 2" in other["error"]["message"])
    told[-1] &= content(run) == before

    damaged = run / "step-00000006" / "ema.safetensors"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1])
    _, said = command.run(*SHORT)
    told.append(f"{damaged} is not what was written" in said)
    told[-1] &= "using step-00000004 instead" in said and damaged.read_bytes() == good

    (run / "outcome.json").unlink()
    for checkpoint in Checkpoints(run).all():
        manifest = json.loads((checkpoint / MANIFEST).read_text()) | {"version": 4}
        (checkpoint / MANIFEST).write_text(json.dumps(manifest | {"sha256": seal(manifest)}))
    before = content(run)
    version, _ = command.run(*SHORT, code=7)
    told.append("step-00000006 has format version 4" in version["error"]["message"])
    told[-1] &= content(run) == before
    figure(
        "Checkpoints",
        "`tintlab train` on checkpoints of another architecture, a damaged one, and another format "
        "version",
        f"{sum(told)} of 3: exit 2 naming the first difference, 0 naming the file it passed over, "
        "7 naming the version; nothing overwritten",
        "3 of 3",
    )
    assert told == [True, True, True]
