"""A slow callback of Ray Tune: what it does to trials upstream, and that our sweeps have none.

Ray 2.60: a TorchTrainer in a Tune trial passes its reports to Tune through a queue. The trial's
main thread takes one and puts it into a second queue, of one place, which only that same thread
empties (`_get_result_from_queues` in ray/train/_internal/session.py). If Tune's driver is slow to
ask, the trainer's end is in that place already, and the thread waits for itself for ever. It takes
two reports at least. Our trials train in the Tune trial's own process and log to a spool, so no
report passes there and no callback waits for MLflow.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from failing_proxy import FailingProxy
from figures import Figure
from lab_data_set import noise, row_of, write_data_set
from mlflow_server import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
SLOW_S = 5.0
TRIALS = 3

SPACE = '''"""Does anything wait for the tracking store?"""
from optuna.distributions import FloatDistribution
from tintlab.sweep.space import SearchSpace
SPACE = SearchSpace(
    search={"schedule.peak_lr": FloatDistribution(1e-4, 2e-3, log=True)},
    num_trials=2,
    stopping="none",
)
'''

TINY = [
    "--training.steps", "60", "--training.eval-every-steps", "20", "--training.batch-size", "4",
    "--data.crop-px", "16", "--evaluation.crop-px", "16", "--bins.per-channel", "7",
    "--model.depth", "1",
]  # fmt: skip


def upstream(storage: Path, reports: int, callback_s: float, limit_s: float) -> dict:
    """What became of three trials of Ray's own."""
    storage.mkdir()
    script = str(Path(__file__).with_name("slow_tune_callback.py"))
    command = [sys.executable, script, str(storage), str(reports), str(callback_s), str(limit_s)]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.timeout(600)
def test_one_report_per_trial_survives_a_slow_callback(tmp_path: Path, figure: Figure) -> None:
    found = upstream(tmp_path / "ray", reports=1, callback_s=SLOW_S, limit_s=2 * LIMIT_S)
    figure(
        "Tracking",
        "Ray's own Tune callback of 5 s per result, three one-epoch trials with a TorchTrainer",
        f"{found['ended_well']} of {TRIALS} trials ended well in {found['seconds'] or 0:.0f} s",
        f"{TRIALS} in {LIMIT_S:.0f} s",
    )
    assert found["ended_well"] == TRIALS
    assert found["seconds"] < LIMIT_S


@pytest.mark.timeout(600)
def test_two_reports_per_trial_hang_upstream(tmp_path: Path, figure: Figure) -> None:
    """When this fails, Ray has mended it: sweeps of trials with several workers become possible."""
    quick = upstream(tmp_path / "quick", reports=2, callback_s=0.0, limit_s=2 * LIMIT_S)
    storage = tmp_path / "slow"
    slow = upstream(storage, reports=2, callback_s=SLOW_S, limit_s=LIMIT_S)
    stacks = "".join(file.read_text() for file in storage.glob("stacks-*"))
    itself = "in _get_result_from_queues" in stacks and "queue.py" in stacks
    figure(
        "Tracking",
        "the same with two reports per trial, which is why tintlab does not use such a callback",
        f"Ray hangs: {slow['ended_well']} of {TRIALS} ended in {LIMIT_S:.0f} s; without the "
        f"callback {quick['ended_well']} in {quick['seconds'] or 0:.0f} s",
        "known: waits for itself",
    )
    assert quick["ended_well"] == TRIALS
    assert slow["seconds"] is None
    assert itself, stacks


@pytest.mark.timeout(600)
def test_our_sweep_waits_for_no_store(tmp_path: Path, figure: Figure) -> None:
    rows = [row_of(noise(24, 24, seed), "train") for seed in range(16)]
    rows += [row_of(noise(24, 24, 100 + seed), "val") for seed in range(4)]
    write_data_set(str(tmp_path / "shards"), [rows])
    space = tmp_path / "wait.py"
    space.write_text(SPACE)
    seconds, statuses = {}, {}
    with Server(tmp_path / "server") as server:
        proxy = FailingProxy(server.port, delay_s=SLOW_S)
        for name, uri in (("fast", server.uri), ("slow", proxy.uri)):
            command = [sys.executable, "-m", "pipelines", "sweep", str(space), *TINY, "--json"]
            command += ["--workspace", str(tmp_path / name), "--name", name]
            command += ["--shards", str(tmp_path / "shards"), "--trials-at-once", "1"]
            environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
            began_s = time.monotonic()
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert len(json.loads(done.stdout)["trials"]) == 2
            whole_s = time.monotonic() - began_s
            sync = [sys.executable, "-m", "pipelines", "track", "sync", "--workspace"]
            environment["MLFLOW_TRACKING_URI"] = server.uri
            subprocess.run([*sync, str(tmp_path / name)], cwd=ROOT, env=environment, check=True)
            client = server.client()
            experiment = client.get_experiment_by_name("wait")
            runs = client.search_runs([experiment.experiment_id])
            (parent,) = (run for run in runs if run.info.run_name == name)
            trials = [
                run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
            ]
            statuses[name] = [run.info.status for run in [parent, *trials]]
            # From its first record to its last, which it makes before it waits for the store.
            seconds[name] = sum(run.info.end_time - run.info.start_time for run in trials) / 1000
        proxy.close()
    figure(
        "Tracking",
        "`tintlab sweep` with a tracking server that takes 5 s per call",
        f"its trials take {seconds['slow'] / seconds['fast']:.2f} times as long as with a fast "
        f"one; whole sweep {whole_s:.0f} s; {len(statuses['slow'])} runs FINISHED",
        "about 1; no hang; 3",
    )
    assert statuses["slow"] == statuses["fast"] == ["FINISHED"] * 3
