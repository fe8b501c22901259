"""A sweep whose record is in PostgreSQL: killed, asked for twice, and without its database."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from figures import Figure
from optuna.storages import BaseStorage
from postgresql import PostgreSQL, is_installed
from sweep_process import NAME, ended, kill_group, mlflow_runs, options, resume, start
from training_process import data_set, wait_until

from tintlab.errors import ConfigError, IntegrityError
from tintlab.sweep.holder import OwnerRecord
from tintlab.sweep.ledger import Ledger
from tintlab.sweep.records import SweepRecord
from tintlab.sweep.study import storage_at

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not is_installed(), reason="PostgreSQL's server is not installed"),
]

TRIALS = 4


@pytest.fixture
def database() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return data_set(tmp_path_factory.mktemp("data") / "shards", train=16, val=4)


@cache
def storage(url: str) -> BaseStorage:
    """Opened once: each has a pool of connections."""
    return storage_at(url)


def record(database: PostgreSQL) -> SweepRecord | None:
    """The sweep as its study has it; None before there is one."""
    try:
        return Ledger.existing(storage(database.url), NAME).record()
    except (ConfigError, IntegrityError):
        return None


def reports(database: PostgreSQL) -> int:
    """How many reports of its runs are in the record."""
    found = record(database)
    runs = [run for trial in (found.trials if found else ()) for run in trial.runs]
    return sum(len(run.curve) for run in runs)


def argv(workspace: Path, shards: str, database: PostgreSQL) -> list[str]:
    return [
        *options(workspace, shards),
        *("--num-trials", str(TRIALS), "--sweep.storage", database.url),
    ]


def test_a_sweep_in_postgresql_that_is_killed(
    shards: str, database: PostgreSQL, tmp_path: Path, figure: Figure
) -> None:
    """After its 1st, 5th and 9th report; a run has four."""
    workspace = tmp_path / "killed"
    command = argv(workspace, shards, database)
    for kept in (1, 5, 9):
        process = start(command)
        wait_until(lambda kept=kept: reports(database) >= kept, timeout_s=200)  # type: ignore[misc]
        kill_group(process)
    ended(start(command))
    found = record(database)
    assert found is not None
    numbers = Counter(trial.number for trial in found.trials)
    states = Counter(trial.state for trial in found.trials)
    attempts = sum(run.attempts for trial in found.trials for run in trial.runs)
    runs = mlflow_runs(workspace)
    one_each = sorted(runs) == [f"{NAME}/{n}/0" for n in range(TRIALS)] and all(
        len(each) == 1 for each in runs.values()
    )
    figure(
        "Sweep",
        f"record in PostgreSQL, driver and Ray killed in 3 of {TRIALS} trials",
        f"{sum(numbers.values()) - TRIALS} duplicate or missing; {attempts} attempts; "
        f"{'one MLflow run each' if one_each else runs}",
        "0; one MLflow run each",
    )
    assert numbers == dict.fromkeys(range(TRIALS), 1)
    assert states["running"] == states["failed"] == 0
    assert one_each
    assert attempts > TRIALS


def test_a_second_one_and_a_holder_that_died(
    shards: str, database: PostgreSQL, tmp_path: Path, figure: Figure
) -> None:
    workspace = tmp_path / "twice"
    command = argv(workspace, shards, database)
    first = start([*command, "--training.steps", "100000"])
    wait_until(lambda: reports(database) > 0, timeout_s=200)
    there = ["--sweep.storage", database.url]
    second = ended(start([*resume(workspace), *there]), code=5)["error"]["message"]
    assert first.poll() is None
    kill_group(first)
    study = Ledger.existing(storage(database.url), NAME).study
    began_s = time.monotonic()
    owner = OwnerRecord(study)
    owner.take()
    waited_s = time.monotonic() - began_s
    owner.release()
    named = f"process {first.pid} on " in second
    figure(
        "Sweep",
        "record in PostgreSQL, two `tintlab sweep` of one name at once; then the holder is killed",
        f"one proceeds, the other exits 5 {'naming it' if named else 'without its name'}; another "
        f"holds it after {waited_s:.2f} s",
        "exit 5 naming the holder; under 2 s on its machine",
    )
    assert named, second
    assert waited_s < 2.0


def test_a_database_that_goes_away(
    shards: str, database: PostgreSQL, tmp_path: Path, figure: Figure
) -> None:
    workspace = tmp_path / "away"
    command = argv(workspace, shards, database)
    process = start(command)
    wait_until(lambda: reports(database) > 1, timeout_s=200)
    kept = reports(database)
    database.stop()
    began_s = time.monotonic()
    try:
        said = ended(process, code=3, timeout_s=90)["error"]["message"]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    took_s = time.monotonic() - began_s
    database.start()
    ended(start(command))
    found = record(database)
    assert found is not None
    complete = sum(trial.state in ("complete", "stopped") for trial in found.trials)
    figure(
        "Sweep",
        "record in PostgreSQL, which stops answering in the middle of a trial",
        f"exit 3 after {took_s:.0f} s; continued: {complete} of {TRIALS} trials ended well",
        f"exit 3; {TRIALS} of {TRIALS}",
    )
    assert kept > 1
    assert "does not answer" in said, said
    assert complete == TRIALS
