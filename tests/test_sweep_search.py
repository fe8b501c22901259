"""What Tune is told to run, and what becomes of what it tells; without a cluster."""

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from sweep_records import METRIC, SPACE, opened, started

from tintlab.settings import SweepConfig
from tintlab.sweep.ledger import Ledger
from tintlab.sweep.search import RETRIES, LedgerScheduler, LedgerSearch
from tintlab.sweep.space import SearchSpace

STEPS = {"training.steps": 40, "training.eval_every_steps": 4}


class Tune:
    """Plays Tune: as many slots as asked for, runs that report what a test says."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.stopped = ledger, False
        self.search = LedgerSearch(ledger, {})
        self.search.stops(self._stop, lambda identity: None)
        self.scheduler = LedgerScheduler(self.search)
        self.count = 0

    def _stop(self) -> None:
        self.stopped = True

    def next(self) -> tuple[str, Any]:
        """Name of a new Tune trial, and what it was given."""
        self.count += 1
        return f"t{self.count}", self.search.suggest(f"t{self.count}")

    def report(self, name: str, step: int, score: float) -> bool:
        """Whether the run goes on."""
        metrics = {METRIC: score}
        result = {**metrics, "step": step, "run_id": "r", "reported": [METRIC], "elapsed_s": 1.0}
        trial = type("Trial", (), {"trial_id": name})()
        decision = self.scheduler.on_trial_result(None, trial, result)
        if decision == TrialScheduler.STOP or step == 40:
            self.search.on_trial_complete(name, result)
        return bool(decision == TrialScheduler.CONTINUE)

    def fail(self, name: str, kind: str) -> None:
        result = {"failure": "it broke", "kind": kind, "elapsed_s": 2.0}
        self.search.on_trial_complete(name, result)


def tune(folder: Path, stopping: str = "none", replicates: int = 1, **changes: Any) -> Tune:
    space = SPACE.model_copy(update={"stopping": stopping, "replicates": replicates})
    now = started(space, base=SPACE.base().replaced(STEPS), **changes)
    return Tune(opened(folder, now))


def given(payload: Any) -> tuple[int, int]:
    return payload["number"], payload["replicate"]


def test_all_seeds_of_a_configuration_come_before_the_next_one(tmp_path: Path) -> None:
    played = tune(tmp_path, replicates=2, num_trials=2)
    runs = []
    for _ in range(4):
        name, payload = played.next()
        runs.append(given(payload))
        assert payload["config"]["training"]["seed"] == payload["replicate"]
        played.report(name, 40, 1.0)
    assert runs == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert played.next()[1] == Searcher.FINISHED
    assert played.search.is_done


def test_other_seeds_wait_for_the_first_where_trials_are_stopped(tmp_path: Path) -> None:
    played = tune(tmp_path, "asha", replicates=2, num_trials=2)
    (first, a), (second, b) = played.next(), played.next()
    assert (given(a), given(b)) == ((0, 0), (1, 0))
    assert played.next()[1] is None  # what comes depends on what runs
    assert played.report(first, 4, 1.0)
    assert not played.report(second, 4, 2.0)
    assert played.next()[1] is None
    played.report(first, 40, 0.5)
    other, payload = played.next()
    assert given(payload) == (0, 1)
    assert played.report(other, 4, 99.0)  # another seed is never stopped
    played.report(other, 40, 0.7)
    states = [trial.state for trial in played.ledger.record().trials]
    assert states == ["complete", "stopped"]
    assert played.ledger.record().trials[0].score == pytest.approx(0.6)


def test_a_continued_sweep_stops_what_the_uninterrupted_one_stops(tmp_path: Path) -> None:
    """The curves are in the ledger: another process compares with all of them."""
    played = tune(tmp_path, "asha")
    for score in (1.0, 1.1, 1.2):
        name, _ = played.next()
        played.report(name, 4, score)
    again = tune(tmp_path, "asha")
    going, payload = again.next()
    assert given(payload) == (0, 0)  # the one that went on
    assert again.report(going, 4, 1.0)  # its checkpoint's report, once more
    again.report(going, 40, 0.5)
    name, payload = again.next()
    assert given(payload) == (3, 0)
    assert not again.report(name, 4, 1.15)


def test_only_what_is_outside_of_a_trial_is_tried_again(tmp_path: Path) -> None:
    played = tune(tmp_path, num_trials=3)
    name, _ = played.next()
    for _ in range(RETRIES):
        played.fail(name, "infrastructure")
        name, payload = played.next()
        assert given(payload) == (0, 0)
    played.fail(name, "infrastructure")
    name, payload = played.next()
    assert given(payload) == (1, 0)
    played.search.died(name, "out_of_memory", "killed for memory")
    played.search.on_trial_complete(name, None, error=True)
    trials = played.ledger.record().trials
    assert [trial.state for trial in trials] == ["failed", "failed"]
    assert [trial.runs[0].attempts for trial in trials] == [RETRIES + 1, 1]
    assert trials[0].reason == "it broke (3 times)"
    assert [trial.runs[0].failure for trial in trials] == ["infrastructure", "out_of_memory"]
    assert trials[0].seconds == 2.0 * (RETRIES + 1)


def test_a_stop_starts_nothing_and_leaves_what_was_interrupted_to_go_on(tmp_path: Path) -> None:
    played = tune(tmp_path, num_trials=2)
    name, _ = played.next()
    played.report(name, 4, 1.0)
    played.search.stop()
    assert played.stopped
    assert played.next()[1] is None
    played.search.on_trial_complete(name, {"interrupted": True, "elapsed_s": 3.0})
    assert played.next()[1] == Searcher.FINISHED
    again = tune(tmp_path, num_trials=2)
    assert again.ledger.interrupted() == [(0, 0)]
    assert again.ledger.record().trials[0].seconds == 3.0
    name, payload = again.next()
    assert given(payload) == (0, 0)
    again.report(name, 40, 1.0)
    assert again.ledger.record().trials[0].seconds == 4.0


def test_a_budget_stops_what_runs_and_says_why(tmp_path: Path) -> None:
    played = tune(tmp_path, settings=SweepConfig(target=0.5))
    (first, _), (_second, _) = played.next(), played.next()
    played.report(first, 40, 0.4)
    assert played.stopped
    assert played.search.ended == "sweep.target=0.5 is reached: trial 0 has 0.4000"


def test_a_failure_that_every_trial_will_have_ends_the_sweep(tmp_path: Path) -> None:
    played = tune(tmp_path)
    name, _ = played.next()
    result = {"failure": "never reported", "kind": "settings", "hopeless": True, "elapsed_s": 1.0}
    played.search.on_trial_complete(name, result)
    assert played.search.hopeless == "never reported"
    assert played.next()[1] == Searcher.FINISHED


def test_values_that_the_config_refuses_fail_their_trial_and_no_other(tmp_path: Path) -> None:
    space = SearchSpace(
        search={
            "schedule.base_lr": CategoricalDistribution((1e-4, 0.5)),
            "schedule.peak_lr": FloatDistribution(1e-3, 1e-2),
        },
        exhaustive=False,
        start=({"schedule.base_lr": 0.5}, {"schedule.base_lr": 1e-4}),
        num_trials=2,
        stopping="none",
    )
    played = Tune(opened(tmp_path, started(space, num_trials=2, base=space.base().replaced(STEPS))))
    _, payload = played.next()
    assert given(payload) == (1, 0)
    failed = played.ledger.record().trials[0]
    assert failed.state == "failed"
    assert "base_lr must not exceed" in (failed.reason or "")
