"""`tintlab sweep` as a process of its own, what it left, and a place where it dies.

Run as a script: WINDOW NUMBER and the arguments of `tintlab`: that command, which kills itself and
all that it has started, as when a machine is switched off, when it gets to that trial's window.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage, get_storage
from training_process import ROOT, environment, wait_until

from tintlab.errors import IntegrityError
from tintlab.sweep.ledger import Ledger
from tintlab.sweep.records import SweepRecord

SPACE = '''"""How fast may a tiny model learn?"""
from optuna.distributions import CategoricalDistribution, FloatDistribution
from tintlab.sweep.space import SearchSpace, When
SPACE = SearchSpace(
    search={
        "schedule.kind": CategoricalDistribution(("cosine", "constant")),
        "schedule.peak_lr": FloatDistribution(1e-4, 2e-2, log=True),
        "loss.parallel": FloatDistribution(0.0, 1.0),
    },
    num_trials=8,
)
'''

NAME = "faults"

WINDOWS = ("after ask", "after record", "after run creation", "after start")


def options(workspace: Path, shards: str, steps: int = 200, every: int = 50) -> list[str]:
    """Of a sweep whose runs take a few seconds."""
    workspace.mkdir(exist_ok=True)
    (workspace / "rates.py").write_text(SPACE)
    return [
        *("sweep", str(workspace / "rates.py"), "--name", NAME, "--json"),
        *("--workspace", str(workspace), "--shards", shards, "--trials-at-once", "1"),
        *("--training.steps", str(steps), "--training.eval-every-steps", str(every)),
        *("--training.batch-size", "4", "--data.crop-px", "16", "--evaluation.crop-px", "16"),
        *("--evaluation.panel-images", "1", "--bins.per-channel", "7", "--model.depth", "1"),
    ]


def resume(workspace: Path) -> list[str]:
    """The same sweep by its name alone."""
    return ["sweep", "--resume", NAME, "--workspace", str(workspace), "--json"]


def start(
    argv: list[str], dies: tuple[str, int] | None = None, **env: str
) -> subprocess.Popen[str]:
    """Begin it; it leads a process group, as a command in a terminal does."""
    script = [__file__, dies[0], str(dies[1])] if dies else ["-m", "pipelines"]
    if dies:  # what the fault tests share is beside them
        known = (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, known))
    return subprocess.Popen(
        [sys.executable, *script, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Threads that wait do not spin: beside other work a step would take a second.
        env=environment(OMP_WAIT_POLICY="PASSIVE", **env),
        cwd=ROOT,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0, timeout_s: float = 400) -> dict[str, Any]:
    """Its result, once it has ended with this exit code."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == code, f"{process.returncode}: {out}\n{err}"
    return dict(json.loads(out))


def kill_group(process: subprocess.Popen[str]) -> None:
    """The driver and its Ray, at once, as when a machine is switched off."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def record(workspace: Path) -> SweepRecord | None:
    """The sweep as its study has it; None before there is one."""
    file = workspace / "study.db"
    try:
        if not _query(file, "select count(*) from studies")[0][0]:
            return None
        return Ledger.existing(get_storage(_database(file)), NAME).record()
    except (sqlite3.OperationalError, IntegrityError):  # its tables or what it was started with
        return None


@cache
def _database(file: Path) -> RDBStorage:
    """Opened once; each look has a memory of its own."""
    return RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 30}})


def _query(file: Path, query: str) -> list[tuple[Any, ...]]:
    if not file.exists():
        raise sqlite3.OperationalError(f"no {file}")
    with closing(sqlite3.connect(file, timeout=30)) as database:
        return database.execute(query).fetchall()


def wait_for_run(workspace: Path, process: subprocess.Popen[str], reports: int = 0) -> None:
    """Until a run has begun that is not over, and has reported so often."""

    def has_begun() -> bool:
        assert process.poll() is None, process.communicate()
        runs = [run for trial in (found.trials if found else ()) for run in trial.runs]
        return any(run.state == "running" and len(run.curve) >= reports for run in runs)

    found = record(workspace)
    while not has_begun():
        time.sleep(0.2)
        found = record(workspace)


def attempts_of_finished(workspace: Path) -> dict[str, int]:
    """How often each run that is over was begun."""
    found = record(workspace)
    runs = [run for trial in (found.trials if found else ()) for run in trial.runs]
    return {run.identity: run.attempts for run in runs if run.state != "running"}


def mlflow_runs(workspace: Path) -> dict[str, list[str]]:
    """Status of every MLflow run of a trial, by identity."""
    query = (
        "select t.value, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
        "where t.key = 'tintlab.identity' and t.value not like 'sweep/%'"
    )
    found: dict[str, list[str]] = {}
    with suppress(sqlite3.OperationalError):  # not there yet
        for identity, status in _query(workspace / "mlflow.db", query):
            found.setdefault(identity, []).append(status)
    return found


def faults(workspace: Path, planned: int, before: list[dict[str, int]]) -> dict[str, int]:
    """What there must be none of when a sweep is over.

    Args: before: `attempts_of_finished` before each of its starts.
    """
    found = record(workspace)
    assert found is not None
    numbers = Counter(trial.number for trial in found.trials)
    attempts = attempts_of_finished(workspace)
    runs = mlflow_runs(workspace)
    expected = {run.identity for trial in found.trials for run in trial.runs}
    again = {
        identity for each in before for identity in each if attempts[identity] != each[identity]
    }
    return {
        "duplicate": sum(numbers.values()) - len(numbers),
        "missing": planned - len(attempts),
        "re-run": len(again),
        "runs too many or few": sum(len(runs.get(i, [])) != 1 for i in expected)
        + len(runs.keys() - expected),
    }


def outcome(workspace: Path) -> list[tuple[int, str, str, float | None]]:
    """The ranking: number, state, values and score of every trial."""
    found = record(workspace)
    assert found is not None
    return [(t.number, t.state, json.dumps(t.values), t.score) for t in found.ranked]


def random_kills(
    workspace: Path, argv: list[str], kills: int, seed: int, start_up_s: float
) -> list[dict[str, int]]:
    """Kill it that often at random moments of its start or of what follows."""
    draw = random.Random(seed)
    before = []
    for kill in range(kills):
        before.append(attempts_of_finished(workspace))
        by_name = kill % 2 and record(workspace) is not None
        process = start(resume(workspace) if by_name else argv)
        moment_s = time.monotonic() + draw.uniform(0, 1.4 * start_up_s)
        while time.monotonic() < moment_s and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        kill_group(process)
    return before


def die() -> None:
    """With all that this command has started."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main(window: str, number: int, argv: list[str]) -> int:
    from pipelines.__main__ import main as tintlab

    draw, begin, report = Ledger._draw, Ledger.begin, Ledger.report

    def drawn(self: Ledger, trial: Any) -> None:
        if trial.number == number and window == "after ask":
            die()
        draw(self, trial)

    def begun(self: Ledger, trial: int, replicate: int, seed: int) -> Any:
        found = begin(self, trial, replicate, seed)
        if trial == number and window == "after record":
            die()
        return found

    def reported(self: Ledger, trial: int, *rest: Any) -> None:
        report(self, trial, *rest)
        if trial == number and window == "after start":
            die()

    def watch_for_run() -> None:
        workspace = Path(argv[argv.index("--workspace") + 1])
        wait_until(lambda: f"{NAME}/{number}/0" in mlflow_runs(workspace), timeout_s=300)
        die()

    Ledger._draw, Ledger.begin, Ledger.report = drawn, begun, reported  # type: ignore[method-assign]
    if window == "after run creation":
        threading.Thread(target=watch_for_run, daemon=True).start()
    return tintlab(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
