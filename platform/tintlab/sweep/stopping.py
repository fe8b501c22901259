"""Early stopping: whether a run is behind the others after the same number of steps.

Decided from the curves in the ledger alone, so that a continued sweep decides as one that ran
through; Tune's own schedulers forget all curves when their process ends.

Sources: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning (ASHA), in the
stopping form of ray 2.60 `schedulers/async_hyperband.py`; Golovin et al. 2017, Google Vizier, sec.
3.2.2 (median automated stopping).
"""

import statistics
from collections.abc import Collection, Mapping

import numpy as np

from tintlab.settings import TrainingConfig
from tintlab.sweep.space import SearchSpace

ASHA_REDUCTION = 3
"""One trial in three goes on past a rung (Li et al. use 4; sweeps here are small)."""

MEDIAN_OF = 3
"""Fewer other curves have no median worth stopping for (ray 2.60's default, too)."""

Curve = Mapping[int, float]
"""The leading metric by step."""


def rung_steps(training: TrainingConfig) -> list[int]:
    """The steps at which ASHA compares trials, all of which every trial reports.

    No rung at the last step: a trial that got there is complete, with a model.
    """
    steps, step = [], training.eval_every_steps
    while step < training.steps:
        steps.append(step)
        step *= ASHA_REDUCTION
    return steps


def is_behind(
    space: SearchSpace, training: TrainingConfig, own: Curve, others: Collection[Curve], step: int
) -> bool:
    """Whether a run is to be stopped after it reported `step`.

    A look in between (at cycle ends) decides nothing: others have not made as many steps there.

    Args: own, others: curves of the leading metric, `own` with `step` in it.
    """
    if step >= training.steps or step % training.eval_every_steps:
        return False
    if space.stopping == "asha":
        return step in rung_steps(training) and _asha(space, own[step], others, step)
    return space.stopping == "median" and _median(space, training, own, others, step)


def _asha(space: SearchSpace, value: float, others: Collection[Curve], step: int) -> bool:
    sign = -1.0 if space.mode == "min" else 1.0
    rewards = [sign * curve[step] for curve in others if step in curve]
    if not rewards:
        return False
    return bool(sign * value < np.nanpercentile(rewards, (1 - 1 / ASHA_REDUCTION) * 100))


def _median(
    space: SearchSpace, training: TrainingConfig, own: Curve, others: Collection[Curve], step: int
) -> bool:
    sign = -1.0 if space.mode == "min" else 1.0
    steps = range(training.eval_every_steps, step + 1, training.eval_every_steps)
    means = [
        statistics.fmean(curve[at] for at in steps if at in curve)
        for curve in others
        if step in curve
    ]
    if len(means) < MEDIAN_OF:
        return False
    best = max(sign * own[at] for at in own if at <= step)
    return best < statistics.median(sign * mean for mean in means)
