"""A sweep stops a trial for what it had learned after as many steps as the others, and no more."""

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tintlab.settings import TrainingConfig
from tintlab.sweep.run import result_of, rung_steps, scheduler_of
from tintlab.sweep.space import SearchSpace
from tintlab.training.loop import Report

TRAINING = TrainingConfig(steps=40, eval_every_steps=4, eval_at_cycle_ends=True)
SPACE = SearchSpace()


def told(scheduler: TrialScheduler, trial: Trial, step: int, bits: float) -> str:
    """What ASHA decides on this report."""
    report = Report(step, {"val/bits_per_dim": bits}, None, None, finished=False)
    return scheduler.on_trial_result(None, trial, result_of(report, "run", rung_steps(TRAINING)))


def added(scheduler: TrialScheduler) -> Trial:
    trial = Trial("trial", stub=True)
    scheduler.on_trial_add(None, trial)
    return trial


def test_rungs_are_steps_that_every_trial_reports_and_those_of_asha() -> None:
    assert rung_steps(TRAINING) == [4, 12, 36]
    asha = scheduler_of(SPACE, TRAINING)
    assert isinstance(asha, AsyncHyperBandScheduler)
    assert sorted(milestone for milestone, _ in asha._brackets[0]._rungs) == [4, 12, 36]


@pytest.mark.parametrize(
    ("space", "training"),
    [
        (SearchSpace(stopping="none"), TRAINING),
        (SPACE, TrainingConfig(steps=40, eval_every_steps=40, eval_at_cycle_ends=True)),
    ],
)
def test_without_a_common_step_nothing_is_stopped(space, training) -> None:
    assert isinstance(scheduler_of(space, training), FIFOScheduler)


def test_a_look_at_a_cycle_end_between_rungs_is_compared_with_nobody() -> None:
    asha = scheduler_of(SPACE, TRAINING)
    for bits in (1.0, 1.1, 1.2):
        told(asha, added(asha), 4, bits)
    # Goes on from a checkpoint at a cycle end: its seven steps are not the four of the others.
    resumed = added(asha)
    assert told(asha, resumed, 7, 0.1) == TrialScheduler.CONTINUE
    assert told(asha, resumed, 8, 9.9) == TrialScheduler.CONTINUE
    assert told(asha, added(asha), 4, 1.05) == TrialScheduler.CONTINUE  # the second best of four
    assert told(asha, added(asha), 4, 1.15) == TrialScheduler.STOP
    # A trial that was never stopped is judged at its rungs, and by what it had there.
    cyclic = added(asha)
    assert told(asha, cyclic, 3, 5.0) == TrialScheduler.CONTINUE
    assert told(asha, cyclic, 4, 0.9) == TrialScheduler.CONTINUE
    assert told(asha, cyclic, 11, 5.0) == TrialScheduler.CONTINUE
