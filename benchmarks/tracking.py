"""Logging metrics through the spool against plain `mlflow.log_metric`, into the same kind of store.

    python benchmarks/tracking.py [--quick]

One point per call, as a training logs them. `caller_us_per_point` is what the caller waits;
`drain_s` is how long after the last call the store has everything. Stores: SQLite in a folder, and
`mlflow server` (one worker, SQLite) on this machine. Plain MLflow makes every point wait for the
store, so it is given fewer of them (BASELINE_SHARE); its figure is per point as well.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import mlflow
from side_by_side import interleaved, report, show

from tintlab.config import Workspace
from tintlab.tracking.runs import open_run
from tintlab.tracking.store import ensure_store

POINTS, QUICK_POINTS = 10_000, 500
BASELINE_SHARE = 10
"""Plain MLflow gets one point in so many."""
DRAIN_TIMEOUT_S = 300.0

_turns = count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="log a twentieth of the points")
    points = QUICK_POINTS if parser.parse_args().quick else POINTS
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "server") as uri:
        workspace = Workspace.at(f"{folder}/workspace")
        ensure_store(workspace)
        sqlite = f"sqlite:///{workspace.root}/plain.db"
        mlflow.set_tracking_uri(sqlite)
        mlflow.search_experiments()  # makes the database
        found = interleaved(
            {
                "spool_sqlite": lambda: through_spool(workspace, "", points),
                "mlflow_sqlite": lambda: plain(sqlite, points // BASELINE_SHARE),
                "spool_server": lambda: through_spool(workspace, uri, points),
                "mlflow_server": lambda: plain(uri, points // BASELINE_SHARE),
            }
        )
    metrics: dict[str, object] = {"points": points}
    baseline: dict[str, object] = {}
    ratio = {}
    for store in ("sqlite", "server"):
        ours, theirs = found[f"spool_{store}"], found[f"mlflow_{store}"]
        metrics |= {f"{store}.{name}": value for name, value in ours.items()}
        baseline |= {f"{store}.{name}": value for name, value in theirs.items()}
        gain = theirs["caller_us_per_point"] / ours["caller_us_per_point"]
        ratio[f"caller_us_per_point.{store}"] = gain
    ratio["caller_us_per_point"] = min(ratio.values())
    print(report("tracking", metrics, baseline, ratio, ("mlflow",)))


def through_spool(workspace: Workspace, uri: str, points: int) -> dict[str, float]:
    """A run of ours into SQLite, or into the server at `uri`."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    name = f"spool {next(_turns)}"
    run = open_run(workspace, "benchmark", name, name)
    assert run.run_id, "the store does not answer"
    seconds = timed(lambda step: run.log_metrics({"train/loss": 1 / (step + 1)}, step), points)
    began_s = time.perf_counter()
    assert run.flush(DRAIN_TIMEOUT_S)
    drain_s = time.perf_counter() - began_s
    run.close("FINISHED")
    return {"caller_us_per_point": seconds / points * 1e6, "drain_s": drain_s}


def plain(uri: str, points: int) -> dict[str, float]:
    """A run of MLflow's own."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run():
        seconds = timed(lambda step: mlflow.log_metric("train/loss", 1 / (step + 1), step), points)
    return {"caller_us_per_point": seconds / points * 1e6}


def timed(log: Callable[[int], object], points: int) -> float:
    """Seconds of logging so many points."""
    began_s = time.perf_counter()
    for step in range(points):
        log(step)
    return time.perf_counter() - began_s


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URI of an `mlflow server` that runs in the block."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        show("starting mlflow server")
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit((folder / "log").read_text())
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
