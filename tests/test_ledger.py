"""The ledger is the record: what was asked is never lost, repeated or mixed up."""

from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from tintlab.errors import ConfigError
from tintlab.sweep.ledger import Ledger
from tintlab.sweep.space import SearchSpace

SPACE = SearchSpace(
    search={
        "model.depth": IntDistribution(1, 8),
        "schedule.peak_lr": FloatDistribution(1e-3, 1e-2, log=True),
    },
    start=({"model.depth": 5},),
    num_trials=6,
)
METRIC = "val/bits_per_dim"


def opened(folder: Path, space: SearchSpace = SPACE, data: str = "d", seed: int = 0) -> Ledger:
    return Ledger(f"sqlite:///{folder}/study.db", "s", space, SPACE.base(), seed, data)


def finished(ledger: Ledger, score: float) -> int:
    record = ledger.ask()
    ledger.begin(record.number)
    ledger.report(record.number, 10, {METRIC: score + 1}, f"run{record.number}")
    ledger.report(record.number, 20, {METRIC: score}, f"run{record.number}")
    ledger.finish(record.number, "complete")
    return record.number


def test_a_trial_is_in_the_database_before_it_is_returned(tmp_path: Path) -> None:
    record = opened(tmp_path).ask()
    again = opened(tmp_path).unfinished()
    assert [r.values for r in again] == [record.values]
    assert record.identity == "s/0"


def test_the_start_point_comes_first_and_once(tmp_path: Path) -> None:
    first = opened(tmp_path).ask()
    second = opened(tmp_path).ask()
    assert first.values["model.depth"] == 5
    assert (first.number, second.number) == (0, 1)
    assert first.values != second.values


def test_an_exhaustive_sweep_asks_every_combination_once_also_when_continued(
    tmp_path: Path,
) -> None:
    space = SearchSpace(
        variants={"plain": {}, "deep": {"model.depth": 3}},
        search={"training.seed": IntDistribution(0, 2)},
        exhaustive=True,
    )
    asked = [opened(tmp_path, space).ask().values for _ in range(space.trials())]
    assert asked == space.first_points()


def test_ranking_is_complete_then_stopped_then_failed(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    worse, better = finished(ledger, 2.0), finished(ledger, 1.0)
    stopped, failed = ledger.ask(), ledger.ask()
    ledger.report(stopped.number, 10, {METRIC: 0.5}, "r")
    ledger.finish(stopped.number, "stopped")
    ledger.finish(failed.number, "failed", "out of memory")
    ranked = ledger.ranked()
    assert [r.number for r in ranked] == [better, worse, stopped.number, failed.number]
    assert ranked[0].score == 1.0
    assert ranked[0].step == 20
    assert ranked[2].score == 0.5
    assert ranked[3].reason == "out of memory"
    ledger.finish(better, "failed")  # what was told first counts
    assert ledger.ranked()[0].state == "complete"


def test_a_continued_sweep_draws_what_an_uninterrupted_one_draws(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = opened(tmp_path / "a")
    for score in range(5):
        finished(whole, float(score))
    for score in range(5):  # another process for every trial
        finished(opened(tmp_path / "b"), float(score))
    assert [r.values for r in whole.records()] == [
        r.values for r in opened(tmp_path / "b").records()
    ]


def test_a_trial_without_values_is_forgotten(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.study.ask()  # the process died here
    again = opened(tmp_path)
    again.close_halfway()
    assert again.records() == []
    assert again.unfinished() == []


def test_another_space_seed_or_data_set_is_refused_with_the_difference(tmp_path: Path) -> None:
    opened(tmp_path)
    deeper = SPACE.model_copy(update={"search": {"model.depth": IntDistribution(1, 9)}})
    with pytest.raises(ConfigError, match="another space .*distributions differ"):
        opened(tmp_path, space=deeper)
    with pytest.raises(ConfigError, match=r"another data \(d -> e\)"):
        opened(tmp_path, data="e")
    with pytest.raises(ConfigError, match=r"another seed \(0 -> 1\)"):
        opened(tmp_path, seed=1)
    changed = SPACE.base().replaced({"training.steps": 7})
    with pytest.raises(ConfigError, match="training.steps 400 -> 7"):
        Ledger(f"sqlite:///{tmp_path}/study.db", "s", SPACE, changed, 0, "d")
