"""Workers, drivers and data that die, hang, are stopped or altered while training."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from figures import Figure
from mlflow import MlflowClient
from training_process import (
    ROOT,
    checkpoint,
    command,
    data_set,
    ended,
    environment,
    kill_group,
    learned,
    ran,
    start,
    wait_until,
    workers,
)

from tintlab.training.checkpoints import read_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PART = "Training"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return data_set(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def through(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nobody disturbed."""
    workspace = tmp_path_factory.mktemp("through") / "workspace"
    done = ran(workspace, shards)
    assert done.code == 0, done.err
    return workspace


def runs(workspace: Path) -> list[tuple[str, str]]:
    """Id and status of every run in the workspace."""
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return [(run.info.run_id, run.info.status) for run in client.search_runs(experiments)]


def points(workspace: Path) -> dict[str, list[tuple[int, float]]]:
    """Every metric of the one run that is no time or speed or measure of the machine."""
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace}/mlflow.db")
    [(run_id, _)] = runs(workspace)
    names = client.get_run(run_id).data.metrics
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))
        for name in names
        if not name.startswith(("perf/", "system/"))
    }


def test_twenty_kills_of_the_worker_change_no_bit(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    workspace, draw = tmp_path / "workspace", random.Random(0)
    steps = ["--training.steps", "1200"]  # enough for twenty kills
    through = tmp_path / "through"
    assert ran(through, shards, *steps).code == 0
    began_s = time.monotonic()
    process = start(workspace, shards, *steps, "--training.max-restarts", "25")
    kills: set[int] = set()
    while len(kills) < 20 and process.poll() is None:
        alive = [pid for pid in workers(process.pid) if pid not in kills]
        if not alive:
            time.sleep(0.05)
            continue
        # A quarter while it starts; the others once it has made progress, so that there is some.
        if draw.random() < 0.75:
            known = sorted((workspace / "checkpoints").rglob("manifest.json"))
            deadline_s = time.monotonic() + 20
            while (
                process.poll() is None
                and Path(f"/proc/{alive[0]}").exists()  # its name changes with what it does
                and time.monotonic() < deadline_s
                and sorted((workspace / "checkpoints").rglob("manifest.json")) == known
            ):
                time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.4))
        try:
            os.kill(alive[0], signal.SIGKILL)
        except ProcessLookupError:
            continue
        kills.add(alive[0])
    done = ended(process)
    wall_s = time.monotonic() - began_s
    assert done.code == 0, done.err
    differing = sum(learned(workspace)[name] != value for name, value in learned(through).items())
    restarts = re.findall(r"restart (\d+)", done.err)
    figure(
        PART,
        f"the worker killed {len(kills)} times (SIGKILL) in one training of 1200 steps",
        f"{differing} of 3 tensor files differ from an uninterrupted run's; "
        f"{len(restarts)} restarts in {wall_s:.0f} s",
        "0",
    )
    assert len(kills) == 20
    assert len(restarts) >= 5, done.err  # that many died with progress behind them
    assert "raylet" not in done.out  # standard output is for the result
    assert differing == 0
    assert [status for _, status in runs(workspace)] == ["FINISHED"]
    assert points(workspace) == points(through)


def test_a_killed_driver_goes_on_with_the_same_command(
    shards: str, through: Path, tmp_path: Path, figure: Figure
) -> None:
    workspace = tmp_path / "workspace"
    process = start(workspace, shards)
    wait_until(lambda: len(list((workspace / "checkpoints").rglob("manifest.json"))) >= 2)
    time.sleep(0.3)
    kill_group(process)
    before = read_state(checkpoint(workspace)).step
    done = ran(workspace, shards)
    found = runs(workspace)
    differing = sum(learned(workspace)[name] != value for name, value in learned(through).items())
    figure(
        PART,
        f"driver and Ray killed after step {before}, the command given again",
        f"{differing} of 3 tensor files differ, {len(found)} MLflow run",
        "0, 1",
    )
    assert done.code == 0, done.err
    assert 0 < before < 200
    assert differing == 0
    assert [status for _, status in found] == ["FINISHED"]
    assert points(workspace) == points(through)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_polite_stop_loses_no_step(
    shards: str, through: Path, tmp_path: Path, figure: Figure, number: signal.Signals, code: int
) -> None:
    workspace = tmp_path / "workspace"
    process = start(workspace, shards)
    wait_until(lambda: (workspace / "checkpoints").exists() and any(workspace.rglob("step-*")))
    asked_s = time.monotonic()
    process.send_signal(number)
    stopped = ended(process)
    took_s = time.monotonic() - asked_s
    said = re.search(r"stopped after step (\d+) of 200", stopped.err)
    assert said, stopped.err
    kept = read_state(checkpoint(workspace)).step
    assert [status for _, status in runs(workspace)] == ["KILLED"]
    done = ran(workspace, shards)
    differing = sum(learned(workspace)[name] != value for name, value in learned(through).items())
    figure(
        PART,
        f"{number.name} after step {kept}, the command given again",
        f"{int(said[1]) - kept} steps lost, exit code {stopped.code} after {took_s:.1f} s, "
        f"{differing} of 3 tensor files differ",
        f"0, {code} within 30 s, 0",
    )
    assert int(said[1]) == kept
    assert stopped.code == code
    assert took_s < 30
    assert done.code == 0, done.err
    assert differing == 0
    assert [status for _, status in runs(workspace)] == ["FINISHED"]
    assert points(workspace) == points(through)


def test_a_hung_worker_is_found_and_started_again(
    shards: str, through: Path, tmp_path: Path, figure: Figure
) -> None:
    timeout_s = 20.0
    workspace = tmp_path / "workspace"
    process = start(workspace, shards, "--training.hang-timeout-s", str(timeout_s))
    wait_until(lambda: (workspace / "checkpoints").exists() and any(workspace.rglob("step-*")))
    [worker] = workers(process.pid)
    os.kill(worker, signal.SIGSTOP)
    hung_s = time.monotonic()
    wait_until(lambda: worker not in workers(process.pid))
    found_s = time.monotonic() - hung_s
    done = ended(process)
    differing = sum(learned(workspace)[name] != value for name, value in learned(through).items())
    figure(
        PART,
        f"the worker stopped (SIGSTOP), training.hang_timeout_s={timeout_s:g}",
        f"found after {found_s:.0f} s; {differing} of 3 tensor files differ",
        f"at most {timeout_s + 60:g} s (Ray takes its time to end a stopped process), 0",
    )
    assert done.code == 0, done.err
    assert "died, hung" in done.err
    assert found_s <= timeout_s + 60
    assert differing == 0


def test_a_diverging_training_ends_at_once_and_is_not_tried_again(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    workspace = tmp_path / "workspace"
    wild = ["--schedule.peak-lr", "1", "--schedule.kind", "constant", "--model.depth", "8"]
    wild += ["--optimizer.clip-norm", "1e30", "--model.encoder-norm", "none"]
    done = ran(workspace, shards, *wild, "--training.eval-every-steps", "1")
    found = re.search(r"diverged at step (\d+): (.*?) is", done.err)
    assert found, done.err
    finite = all(
        all(abs(value) < float("inf") for value in read_state(path).metrics.values())
        for path in (workspace / "checkpoints").rglob("step-*")
    )
    restarts = done.err.count("restart")
    figure(
        PART,
        f"a learning rate of 1 without clipping: {found[2]} is not finite at step {found[1]}",
        f"{restarts} more tries, kept checkpoints {'' if finite else 'not '}finite, "
        f"run {runs(workspace)[0][1]}",
        "0, finite, FAILED",
    )
    assert (done.code, restarts, finite) == (1, 0, True)
    assert [status for _, status in runs(workspace)] == ["FAILED"]


def test_a_shard_cut_short_is_named(tmp_path: Path, figure: Figure) -> None:
    workspace, folder = tmp_path / "workspace", tmp_path / "shards"
    shards = data_set(folder)
    done = ran(workspace, shards, "--training.steps", "20")
    assert done.code == 0, done.err
    [shard] = folder.glob("shard-*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1000])
    again = ran(workspace, shards, "--name", "again", "--json")
    error = json.loads(again.out)["error"]
    figure(
        PART,
        "a shard cut short before a training",
        f"exit code {again.code}: {error['message'].replace(str(folder), 'SHARDS')}",
        "7, naming the file",
    )
    assert again.code == 7
    assert shard.name in error["message"]


@pytest.mark.parametrize("how", ["written to", "cut short", "removed"])
def test_a_shard_that_changes_during_a_training_is_named(
    tmp_path: Path, figure: Figure, how: str
) -> None:
    workspace, folder = tmp_path / "workspace", tmp_path / "shards"
    process = start(workspace, data_set(folder), "--training.steps", "100000", "--json")
    while not list((workspace / "checkpoints").rglob("manifest.json")):
        assert process.poll() is None, ended(process).err
        time.sleep(0.1)
    [shard] = folder.glob("shard-*.parquet")
    content = shard.read_bytes()
    with shard.open("r+b") as file:
        if how == "written to":
            file.seek(len(content) // 2)
            file.write(bytes(byte ^ 1 for byte in content[len(content) // 2 :][:16]))
        elif how == "cut short":
            file.truncate(len(content) // 3)
        else:
            shard.unlink()
    done = ended(process)
    error = json.loads(done.out)["error"]
    figure(
        PART,
        f"a shard {how} while it is trained on",
        f"exit code {done.code}: {error['message'].replace(str(folder), 'SHARDS')}",
        "7, naming the file",
    )
    assert done.code == 7
    assert shard.name in error["message"]


def test_a_worker_that_its_machine_has_no_memory_for_is_not_tried_again(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    memory = psutil.virtual_memory()
    # Ray ends workers when the machine uses 4 GB more than now; these would need more than 20.
    share = (memory.total - memory.available + 4e9) / memory.total
    process = start(
        *(tmp_path / "workspace", shards, "--json"),
        *("--training.batch-size", "6000", "--data.crop-px", "24"),
        RAY_memory_usage_threshold=f"{share:.4f}",
    )
    done = ended(process)
    error = json.loads(done.out)["error"]
    figure(
        PART,
        "a machine without memory for its worker",
        f"exit code {done.code}: {error['message']}",
        "3, saying what to change",
    )
    assert (done.code, error["kind"]) == (3, "OutOfMemory")
    assert "out of memory" in error["message"]


def test_a_cluster_without_room_is_not_waited_for_without_end(
    shards: str, tmp_path: Path, figure: Figure
) -> None:
    script = (
        "import ray, sys\n"
        "from pipelines.__main__ import main\n"
        "from tintlab.cluster import connect\n"
        "from tintlab.config import Workspace\n"
        "with connect(Workspace.at(sys.argv[1])):\n"
        "    hog = ray.remote(lambda: __import__('time').sleep(600))\n"
        "    jobs = [hog.remote() for _ in range(int(ray.cluster_resources()['CPU']))]\n"
        "    __import__('time').sleep(5)\n"
        "    sys.exit(main(sys.argv[2:]))\n"
    )
    workspace = tmp_path / "workspace"
    _, _, _, *arguments = command(workspace, shards, "--json")
    began_s = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", script, str(workspace), *arguments],
        env=environment(RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="5"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    # connect() keeps standard output for results of the stage that opened it.
    [told] = [line for line in process.stderr.splitlines() if line.startswith("{")]
    error = json.loads(told)["error"]
    figure(
        PART,
        "a cluster whose cores are all in use, waited for 5 s (by default 60 s)",
        f"exit code {process.returncode} after {time.monotonic() - began_s:.0f} s: "
        f"{error['message']}",
        "3, saying what is free",
    )
    assert process.returncode == 3
    assert "0 of" in error["message"]
    assert "waiting for other work to end" in process.stderr
