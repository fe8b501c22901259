"""A real `mlflow server` dies, stays away, fails and crawls: no metric is lost, none comes twice.

What was measured is known from the spool, whose segments are linked to a second name before they
are delivered and removed; it is compared point by point with what the server answers in the end.
"""

import json
import os
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from failing_proxy import FailingProxy
from figures import Figure
from mlflow import MlflowClient
from mlflow_server import Server
from training_process import data_set

from tintlab.config import Workspace
from tintlab.tracking.spool import read_records
from tintlab.tracking.store import connect, ensure_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OUTAGE_S = 60.0
SILENT = "http://127.0.0.1:9"

TINY = [
    "--training.batch-size", "4", "--data.crop-px", "16", "--evaluation.crop-px", "16",
    "--bins.per-channel", "7", "--model.depth", "1",
]  # fmt: skip

Point = tuple[str, int, float, int]
"""Key, step, value, time in milliseconds."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return data_set(tmp_path_factory.mktemp("data") / "shards", train=16, val=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


def environment(tracking: str) -> dict[str, str]:
    # Often enough that the machine's figures are in every scenario, too.
    return {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking,
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "2",
    }


def start_train(workspace: Path, shards: str, steps: int, tracking: str) -> subprocess.Popen[str]:
    """`tintlab train` itself."""
    command = [sys.executable, "-m", "pipelines", "train", "--json", *TINY]
    command += ["--workspace", str(workspace), "--shards", shards]
    command += ["--training.steps", str(steps), "--training.eval-every-steps", str(steps // 4)]
    out = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(tracking), stdout=out, stderr=out, text=True
    )


def start_tracked(
    workspace: Path, shards: str, name: str, steps: int, pause_s: float, tracking: str
) -> subprocess.Popen[str]:
    """The same training without Ray around it, at a pace that does not depend on the machine."""
    script = str(Path(__file__).with_name("tracked_training.py"))
    command = [sys.executable, script, str(workspace), shards, name, str(steps), str(pause_s)]
    out = subprocess.PIPE
    return subprocess.Popen(command, env=environment(tracking), stdout=out, stderr=out, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed; it must end with 0."""
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return out, err


def track_sync(workspace: Path, tracking: str) -> str:
    command = [sys.executable, "-m", "pipelines", "track", "sync", "--workspace", str(workspace)]
    process = subprocess.run(
        command, cwd=ROOT, env=environment(tracking), capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@contextmanager
def kept(workspace: Path) -> Iterator[Path]:
    """A folder that gets a second name for every segment of the spool as soon as there is one."""
    copies = workspace.with_name(f"{workspace.name}-spool")
    copies.mkdir()
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(0.02):
            for path in (workspace / "spool").glob("*/*.jsonl"):
                with suppress(OSError):  # linked already, or delivered in this moment
                    os.link(path, copies / f"{path.parent.name}.{path.name}")

    thread = threading.Thread(target=keep)
    thread.start()
    yield copies
    stop.set()
    thread.join()


def measured(copies: Path) -> Counter[Point]:
    """Every point that was given to the spool."""
    points: Counter[Point] = Counter()
    for path in copies.glob("*.jsonl"):
        for record, _ in read_records(path):
            assert record is not None
            if record["kind"] == "metrics":
                values = record["values"].items()
                points.update((key, record["step"], v, record["time_ms"]) for key, v in values)
    return points


def stored(client: MlflowClient, run_id: str) -> Counter[Point]:
    """Every point that the server has."""
    return Counter(
        (key, point.step, point.value, point.timestamp)
        for key in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, key)
    )


def only_run(client: MlflowClient, name: str) -> str:
    """The id of the finished run of that name, of which there must be exactly one."""
    experiment = client.get_experiment_by_name("train")
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    assert run.info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(run.info.run_id, "model")}
    assert files == {"model/model.safetensors", "model/config.json", "model/manifest.json"}
    assert len(client.list_artifacts(run.info.run_id, "images")) == 8  # 4 panels, and small ones
    return str(run.info.run_id)


def compared(
    figure: Figure, fault: str, copies: Path, client: MlflowClient, name: str, also: str = ""
) -> None:
    """The figure of a scenario, then its assertions."""
    run_id = only_run(client, name)
    expected, got = measured(copies), stored(client, run_id)
    lost, extra = (expected - got).total(), (got - expected).total()
    keys = {key for key, *_ in expected}
    figure(
        "Tracking",
        fault,
        f"{lost} lost, {extra} duplicated of {expected.total()} points; training exit 0{also}",
        "0, 0; exit 0",
    )
    assert (lost, extra) == (0, 0)
    assert {"train/loss", "lr", "val/bits_per_dim", "system/cpu_utilization_percentage"} <= keys
    assert set(expected.values()) == {1}


@pytest.fixture(scope="module")
def away_all_along(shards: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A training whose server never answered: its workspace, and what it printed."""
    workspace = tmp_path_factory.mktemp("down") / "ws"
    out, err = finished(start_train(workspace, shards, 200, SILENT))
    return workspace, out, err


@pytest.mark.timeout(600)
def test_a_server_that_is_down_for_the_whole_run(
    away_all_along: tuple[Path, str, str], tmp_path: Path, figure: Figure
) -> None:
    workspace, out, err = away_all_along
    warnings = [line for line in err.splitlines() if "does not answer" in line]
    with Server(tmp_path / "server") as server, kept(workspace) as copies:
        time.sleep(0.2)  # every segment has its second name
        began_s = time.monotonic()
        told = track_sync(workspace, server.uri)
        took_s = time.monotonic() - began_s
        compared(
            figure,
            "`mlflow server` down for a whole training, then `tintlab track sync`",
            copies,
            server.client(),
            "train",
            f", {len(warnings)} line of warning; sync {took_s:.0f} s",
        )
    assert json.loads(out)["run_id"] == ""
    assert len(warnings) == 1
    assert "tintlab track sync" in warnings[0]
    assert "of 1 runs sent" in told


@pytest.mark.timeout(600)
def test_a_server_that_dies_for_a_minute(
    away_all_along: tuple[Path, str, str], shards: str, tmp_path: Path, figure: Figure
) -> None:
    steps_per_s = json.loads(away_all_along[1])["metrics"]["perf/images_per_s"] / 4
    steps = 40 * int(max(10.0, 2 * OUTAGE_S * steps_per_s / 40))
    workspace = tmp_path / "ws"
    with Server(tmp_path / "server") as server, kept(workspace) as copies:
        process = start_train(workspace, shards, steps, server.uri)
        while not any(key == "train/loss" for key, *_ in measured(copies)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        server.kill()
        time.sleep(OUTAGE_S)
        assert process.poll() is None, "the training was over before the server was back"
        server.start()
        began_s = time.monotonic()
        (segment,) = (workspace / "spool").glob("*/*.jsonl")
        waiting_to = segment.stat().st_size
        while segment.exists() and int(segment.with_suffix(".ack").read_text()) < waiting_to:
            time.sleep(0.02)
        drained_s = time.monotonic() - began_s
        went_on = process.poll() is None
        _, err = finished(process)
        compared(
            figure,
            f"`mlflow server` killed for {OUTAGE_S:.0f} s in the middle of a training",
            copies,
            server.client(),
            "train",
            f"; {drained_s:.1f} s from its return to having all",
        )
    assert went_on
    assert "does not answer" in err
    assert drained_s < 30
    assert not list((workspace / "spool").glob("*/*.jsonl")), "a delivered spool is removed"


@pytest.mark.timeout(300)
def test_a_proxy_that_fails_a_fifth_of_the_requests(
    server: Server, shards: str, tmp_path: Path, figure: Figure
) -> None:
    proxy = FailingProxy(server.port, failing=0.2)
    workspace = tmp_path / "ws"
    with kept(workspace) as copies:
        finished(start_tracked(workspace, shards, "flaky", 200, 0.1, proxy.uri))
        while list((workspace / "spool").glob("*/*.jsonl")):  # its end came before a success
            proxy.failing = 0.0
            track_sync(workspace, proxy.uri)
    proxy.close()
    failed = ", ".join(f"{count} {fault}" for fault, count in sorted(proxy.failed.items()))
    compared(
        figure,
        "a proxy that fails 20 % of the requests",
        copies,
        server.client(),
        "flaky",
        f"; {sum(proxy.failed.values())} of {proxy.requests} requests failed ({failed})",
    )
    assert len(proxy.failed) == 4


@pytest.mark.timeout(300)
def test_a_server_that_takes_five_seconds_per_call(
    server: Server, shards: str, tmp_path: Path, figure: Figure
) -> None:
    proxy = FailingProxy(server.port, delay_s=5.0)
    workspace = tmp_path / "slow"
    trackers = {"fast": server.uri, "slow": proxy.uri}
    with kept(workspace) as copies:
        both = {  # at the same time, so that what else this machine does slows both alike
            name: start_tracked(tmp_path / name, shards, name, 300, 0.05, tracking)
            for name, tracking in trackers.items()
        }
        median_s = {
            name: statistics.median(json.loads(finished(process)[0]))
            for name, process in both.items()
        }
    proxy.delay_s = 0.0
    track_sync(workspace, proxy.uri)
    proxy.close()
    ratio = median_s["slow"] / median_s["fast"]
    compared(
        figure,
        "`mlflow server` takes 5 s per call",
        copies,
        server.client(),
        "slow",
        f"; a step takes {ratio:.2f} times as long as with a fast one",
    )
    assert ratio < 1.5


SIXTEEN = """
    import os, sys, time
    from tintlab.config import Workspace
    from tintlab.tracking.runs import open_run

    children = []
    for number in range(16):
        child = os.fork()
        if not child:
            run = open_run(Workspace(root=sys.argv[1]), "many", f"{number}", f"many/{number}")
            for step in range(200):
                run.log_metrics({"train/loss": number + step / 7, "lr": 1 / (step + 1)}, step)
                time.sleep(0.02)
            os._exit(0 if run.close("FINISHED", 120) else 1)
        children.append(child)
    sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.mark.timeout(300)
def test_sixteen_runs_log_into_one_sqlite_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace.at(str(tmp_path / "ws"))
    Path(workspace.root).mkdir()
    ensure_store(workspace)
    command = [sys.executable, "-c", textwrap.dedent(SIXTEEN), workspace.root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    client = connect(workspace)
    experiment = client.get_experiment_by_name("many")
    runs = client.search_runs([experiment.experiment_id])
    lost = 0
    for run in runs:
        number, got = int(run.info.run_name), stored(client, run.info.run_id)
        expected = Counter(("train/loss", step, number + step / 7) for step in range(200))
        expected.update(("lr", step, 1 / (step + 1)) for step in range(200))
        points = Counter({point[:3]: 0 for point in got})
        points.update(point[:3] for point in got.elements())
        lost += (expected - points).total() + (points - expected).total()
    warned = done.stderr.count("does not answer")
    figure(
        "Tracking",
        "16 processes log at once into one SQLite store",
        f"{done.returncode} errors, {warned} warnings; {lost} lost or duplicated of "
        f"{16 * 400} points in {len(runs)} runs",
        "0 errors, 0 lost",
    )
    assert done.returncode == 0, done.stderr
    assert (lost, len(runs)) == (0, 16)
    assert {run.info.status for run in runs} == {"FINISHED"}
