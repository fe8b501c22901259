"""A sweep stops a trial for what it had learned after as many steps as the others, and no more."""

import random

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tintlab.settings import SweepConfig, TrainingConfig
from tintlab.sweep.budget import budget_reached
from tintlab.sweep.records import Mode, RunRecord, State, SweepRecord, TrialRecord
from tintlab.sweep.space import SearchSpace
from tintlab.sweep.stopping import ASHA_REDUCTION, is_behind, rung_steps

TRAINING = TrainingConfig(steps=40, eval_every_steps=4, eval_at_cycle_ends=True)
ASHA, MEDIAN = SearchSpace(), SearchSpace(stopping="median")


def test_rungs_are_steps_that_every_trial_reports_and_those_of_asha() -> None:
    assert rung_steps(TRAINING) == [4, 12, 36]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_asha_decides_as_ray_does(mode: Mode) -> None:
    """On a stream of 60 trials that report in random order; Ray's is the implementation known."""
    space = SearchSpace(mode=mode)
    theirs = AsyncHyperBandScheduler(
        time_attr="step",
        metric="score",
        mode=mode,
        max_t=TRAINING.steps - 1,
        grace_period=TRAINING.eval_every_steps,
        reduction_factor=ASHA_REDUCTION,
        stop_last_trials=False,
    )
    draw = random.Random(0)
    trials = [Trial("trial", stub=True) for _ in range(60)]
    for trial in trials:
        theirs.on_trial_add(None, trial)
    curves: dict[int, dict[int, float]] = {number: {} for number in range(60)}
    running = list(range(60))
    stopped = 0
    while running:
        number = draw.choice(running)
        step = rung_steps(TRAINING)[len(curves[number])]
        score = number / 60 + draw.random()
        others = [curve for other, curve in curves.items() if other != number]
        curves[number][step] = score
        ours = is_behind(space, TRAINING, curves[number], others, step)
        decision = theirs.on_trial_result(None, trials[number], {"step": step, "score": score})
        assert ours == (decision == TrialScheduler.STOP)
        stopped += ours
        if ours or len(curves[number]) == len(rung_steps(TRAINING)):
            running.remove(number)
    assert 20 < stopped < 60


def test_a_look_at_a_cycle_end_between_rungs_decides_nothing() -> None:
    others = [{4: 1.0, 12: 1.0}] * 5
    assert is_behind(ASHA, TRAINING, {4: 2.0}, others, 4)
    for step in (3, 7, 8, 40):  # a cycle's end, another, no rung, the end
        assert not is_behind(ASHA, TRAINING, {step: 9.0}, others, step)
    assert not is_behind(SearchSpace(stopping="none"), TRAINING, {4: 2.0}, others, 4)


def test_a_trial_worse_than_the_median_of_running_means_is_stopped() -> None:
    others = [{4: 1.0, 8: 1.0}, {4: 2.0, 8: 2.0}, {4: 3.0, 8: 3.0}]
    assert not is_behind(MEDIAN, TRAINING, {4: 5.0, 8: 1.9}, others, 8)
    assert is_behind(MEDIAN, TRAINING, {4: 5.0, 8: 2.1}, others, 8)
    assert not is_behind(MEDIAN, TRAINING, {4: 5.0, 8: 2.1}, others[:2], 8)  # two have no median
    assert not is_behind(MEDIAN, TRAINING, {4: 5.0, 7: 5.0}, others, 7)
    other_way = SearchSpace(stopping="median", mode="max")
    assert not is_behind(other_way, TRAINING, {4: 5.0, 8: 2.1}, others, 8)
    assert is_behind(other_way, TRAINING, {4: 0.1, 8: 1.9}, others, 8)


def run(score: float, state: State = "complete", seconds: float = 1800.0) -> RunRecord:
    metrics = {"m": score}
    return RunRecord(0, 0, "s/0/0", state, 1, 10, "r", metrics, {10: score}, seconds)


def sweep(*scores: float | None, gpus: float = 0.0, wall_s: float = 0.0) -> SweepRecord:
    """Ten planned; None is a failed one."""
    trials = tuple(
        TrialRecord(n, {}, "failed", (run(0.0, "failed"),), "m")
        if score is None
        else TrialRecord(n, {}, "complete", (run(score),), "m")
        for n, score in enumerate(scores)
    )
    base = {"training.gpus_per_worker": gpus, "training.workers": 2}
    return SweepRecord(
        *("s", "?", "s", "m", "min", {"m": "min"}, {}, (), trials, 10, 1, 0, base),
        *("u", "d", {}, (), wall_s, None),
    )


@pytest.mark.parametrize(
    ("settings", "before", "reached", "said"),
    [
        (
            {"hours": 2},
            sweep(1.0, wall_s=7199.0),
            sweep(1.0, wall_s=7200.0),
            "sweep.hours=2 are over",
        ),
        ({"gpu_hours": 2}, sweep(1.0, gpus=1), sweep(1.0, 1.0, gpus=1), "gpu_hours=2 are used up"),
        ({"target": 0.5}, sweep(0.9, 0.51), sweep(0.9, 0.5), "trial 1 has 0.5000"),
        (
            {"patience_trials": 2},
            sweep(3.0, 1.0, 2.0),
            sweep(3.0, 1.0, 2.0, 1.5),
            "better than trial 1",
        ),
        (
            {"failed_share": 0.2},
            sweep(1.0, None, None),
            sweep(*[None] * 3),
            "3 of 10 trials failed",
        ),
    ],
)
def test_a_budget_ends_a_sweep_when_it_is_reached(
    settings: dict[str, float], before: SweepRecord, reached: SweepRecord, said: str
) -> None:
    assert budget_reached(SweepConfig(**settings), before) is None
    assert said in (budget_reached(SweepConfig(**settings), reached) or "")
    assert budget_reached(SweepConfig(failed_share=1), reached) is None
