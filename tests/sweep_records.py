"""Sweeps of nothing but their record: a space, a ledger in a file, configurations with scores."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import RDBStorage, get_storage
from sqlalchemy import event

from tintlab.settings import SweepConfig
from tintlab.sweep.ledger import Ledger, study_of
from tintlab.sweep.question import Question
from tintlab.sweep.space import SearchSpace
from tintlab.sweep.started import Started

SPACE = SearchSpace(
    search={
        "model.depth": IntDistribution(1, 8),
        "schedule.peak_lr": FloatDistribution(1e-3, 1e-2, log=True),
    },
    start=({"model.depth": 5},),
    num_trials=6,
    stopping="none",
)
METRIC = "val/bits_per_dim"


def started(space: SearchSpace = SPACE, **changes: object) -> Started:
    """What a sweep of this space is started with."""
    first = Started(
        question=Question("depths", "How deep?", space),
        source="depths",
        base=space.base(),
        seed=0,
        shards_uri="shards",
        data_fingerprint="d",
        code={"training/loop.py": "1"},
        git="abc",
        num_trials=6,
        trials_at_once=1,
        settings=SweepConfig(),
    )
    return replace(first, **changes)  # type: ignore[arg-type]


@cache
def tables() -> bytes:
    """An empty database; making one takes a second, copying one does not."""
    with TemporaryDirectory() as folder:
        RDBStorage(f"sqlite:///{folder}/study.db").engine.dispose()
        return (Path(folder) / "study.db").read_bytes()


@cache
def database(file: Path) -> RDBStorage:
    """One connection for all processes that a test plays."""
    file.write_bytes(tables())
    opened = RDBStorage(f"sqlite:///{file}")
    opened.engine.dispose()  # a process may die in a test, the machine does not
    event.listen(opened.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
    return opened


def opened(folder: Path, now: Started | None = None, accept: bool = False) -> Ledger:
    """The sweep in that folder, as another process would open it."""
    now = now or started()
    # With a memory of its own, as another process has it.
    storage = get_storage(database(folder / "study.db"))
    study = study_of(storage, "s", now.question.space)
    return Ledger.opened(study, now, accept)


def reported(ledger: Ledger, number: int, replicate: int, *scores: float) -> None:
    """A run that reports these scores at steps 10, 20, ... and has not ended."""
    ledger.begin(number, replicate, seed=replicate)
    for at, score in enumerate(scores, 1):
        ledger.report(number, replicate, 10 * at, {METRIC: score}, f"run{number}", float(at))


def finished(ledger: Ledger, *scores: float) -> int:
    """A new trial whose runs, one for each score, are complete."""
    number = ledger.ask()
    for replicate, score in enumerate(scores):
        reported(ledger, number, replicate, score + 1, score)
        ledger.end(number, replicate, "complete")
    return number
