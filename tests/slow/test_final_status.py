"""However a training ends, its one run in MLflow says so, and no store can hold its end up."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import Figure
from training_process import data_set

from tintlab.config import Workspace
from tintlab.tracking.spool import read_records
from tintlab.tracking.store import connect, ensure_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = [
    "--training.batch-size", "4", "--data.crop-px", "16", "--evaluation.crop-px", "16",
    "--bins.per-channel", "7", "--model.depth", "1", "--training.eval-every-steps", "50",
]  # fmt: skip
LONG, SHORT = 100_000, 100
"""Steps of a training that is stopped, and of one that ends."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return data_set(tmp_path_factory.mktemp("data") / "shards", train=16, val=4)


def start(
    workspace: Path, shards: str, steps: int, *options: str, tracking: str = ""
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "train", "--json", *TINY, "--shards", shards]
    command += ["--workspace", str(workspace), "--training.steps", str(steps), *options]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking}
    out = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, text=True)


def wait_for_checkpoint(process: subprocess.Popen[str], workspace: Path) -> None:
    """Return when the training has measured, and kept, something."""
    while not list(workspace.glob("checkpoints/*/step-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def statuses(workspace: Path) -> list[str]:
    """Of every run in the workspace's store."""
    client = connect(Workspace.at(str(workspace)))
    experiment = client.get_experiment_by_name("train")
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def sync(workspace: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "track", "sync", "--workspace", str(workspace)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGINT, 130, "KILLED"), (signal.SIGTERM, 143, "KILLED")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_training_that_is_told_to_stop(
    shards: str, tmp_path: Path, figure: Figure, number: int, code: int, status: str
) -> None:
    process = start(tmp_path, shards, LONG)
    wait_for_checkpoint(process, tmp_path)
    process.send_signal(number)
    began_s = time.monotonic()
    process.communicate(timeout=200)
    took_s = time.monotonic() - began_s
    found = statuses(tmp_path)
    figure(
        "Tracking",
        f"{signal.Signals(number).name} to `tintlab train`",
        f"exit {process.returncode} after {took_s:.0f} s; run {', '.join(found)}",
        f"exit {code}; run {status}",
    )
    assert process.returncode == code
    assert found == [status]


@pytest.mark.timeout(600)
def test_a_training_that_is_killed(shards: str, tmp_path: Path, figure: Figure) -> None:
    """The command itself, with SIGKILL: its workers see that it is gone and end."""
    found = {}
    for then in ("track sync", "the same command again"):
        workspace = tmp_path / then.replace(" ", "-")
        steps = LONG if then == "track sync" else 600
        process = start(workspace, shards, steps)
        wait_for_checkpoint(process, workspace)
        process.kill()
        process.communicate()
        if then == "track sync":
            until_s = time.monotonic() + 60
            sync(workspace)
            while statuses(workspace) == ["RUNNING"] and time.monotonic() < until_s:
                time.sleep(1)  # the worker is still there, and its run is its own
                sync(workspace)
        else:
            again = start(workspace, shards, steps)
            _, err = again.communicate(timeout=400)
            assert again.returncode == 0, err
        found[then] = statuses(workspace)
    figure(
        "Tracking",
        "SIGKILL to `tintlab train`, then `tintlab track sync`, or the same command again",
        "; ".join(f"{then}: run {', '.join(status)}" for then, status in found.items()),
        "FAILED; FINISHED; one run each",
    )
    assert found == {"track sync": ["FAILED"], "the same command again": ["FINISHED"]}


@pytest.mark.timeout(600)
def test_a_training_that_fails(shards: str, tmp_path: Path, figure: Figure) -> None:
    wild = ["--schedule.peak-lr", "1", "--optimizer.clip-norm", "1e30"]
    wild += ["--model.encoder-norm", "none", "--loss.pixel", "10"]
    process = start(tmp_path, shards, LONG, *wild)
    out, _ = process.communicate(timeout=400)
    found = statuses(tmp_path)
    figure(
        "Tracking",
        "a training that diverges",
        f"exit {process.returncode}; run {', '.join(found)}",
        "exit 1; run FAILED",
    )
    assert process.returncode == 1, out
    assert "diverged" in json.loads(out)["error"]["message"]
    assert found == ["FAILED"]


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that accepts every connection and never says anything."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    taken: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for connection in taken:
        connection.close()


@pytest.mark.timeout(600)
def test_a_store_that_never_answers_holds_nothing_up(
    shards: str, mute: str, tmp_path: Path, figure: Figure
) -> None:
    fast = tmp_path / "fast"
    fast.mkdir()
    ensure_store(Workspace.at(str(fast)))
    seconds = {}
    for name, tracking in (("fast", ""), ("mute", mute)):
        began_s = time.monotonic()
        process = start(tmp_path / name, shards, SHORT, tracking=tracking)
        out, err = process.communicate(timeout=400)
        seconds[name] = time.monotonic() - began_s
        assert process.returncode == 0, err
    warned = [line for line in err.splitlines() if "does not answer" in line]
    (segment,) = (tmp_path / "mute" / "spool").glob("*/*.jsonl")
    kinds = [record["kind"] for record, _ in read_records(segment) if record]
    longer_s = seconds["mute"] - seconds["fast"]
    figure(
        "Tracking",
        "a tracking URI that accepts connections and never answers",
        f"training exit 0, {len(warned)} warning, {longer_s:.0f} s longer",
        "exit 0, 1 warning, at most 45 s",
    )
    assert json.loads(out)["steps"] == SHORT
    assert len(warned) == 1
    assert kinds[-1] == "close"
    assert longer_s < 60
