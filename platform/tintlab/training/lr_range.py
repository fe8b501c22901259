"""The learning rate range test: raise the rate over one short training, and watch the loss.

The rate rises exponentially from step to step, and the test ends early when the training diverges,
which it is meant to do. Two rates are read off the curve by the rule of Smith 2017: base_lr is
where the loss starts to fall, peak_lr where the fall slows, before the curve becomes ragged or
rises. Smith reads both by eye; here they are where 5 % and 75 % of the whole fall of the smoothed
loss, from the first to the lowest, are done. That is steadier between seeds than a tenth of the
rate of the lowest loss, another common rule: the bottom of the curve is flat.

Sources: Smith 2017, Cyclical Learning Rates for Training Neural Networks, arXiv 1506.01186,
sec. 3.3 (with a linear rise); fastai's LRFinder (exponential rise, end at 4 times the lowest loss).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from tintlab.config import ExperimentConfig
from tintlab.data.batches import train_batches
from tintlab.data.shards import Shards
from tintlab.errors import ConfigError
from tintlab.training.failures import TrainingDiverged
from tintlab.training.learner import Learner
from tintlab.training.loop import training_device
from tintlab.training.progress import Progress
from tintlab.training.workers import Workers

LEAST_STEPS = 20
"""Fewer points are not a curve."""

LEAST_RISE = 10.0
"""max_lr over min_lr: within less than a decade a fall has neither a start nor an end."""

START_SHARE = 0.05
"""Share of the fall that is done at base_lr: the first that stands out from the noise."""

SLOW_SHARE = 0.75
"""Share of the fall that is done at peak_lr."""

SMOOTHING_DECADES = 0.15
"""Width of the Gaussian over log10 of the rate that smooths the losses; at least one step."""

NOISES = 3.0
"""A fall counts if it is so many standard deviations of the losses' noise..."""

LEAST_FALL = 0.01
"""...and this share of the first loss."""

AVERAGING = 0.9
"""Decay per step of the average loss that shows a divergence."""

DIVERGED = 4.0
"""The test ends when the average loss is so many times its lowest value (fastai's LRFinder)."""


@dataclass(frozen=True)
class Rise:
    """How the learning rate rises: from min_lr at the first step to max_lr at the last.

    Raises: ConfigError: there is no such rise.
    """

    min_lr: float
    max_lr: float
    steps: int

    def __post_init__(self) -> None:
        if not self.min_lr > 0:
            raise ConfigError(f"--min-lr must be above 0, got {self.min_lr:g}; try 1e-5")
        if not LEAST_RISE * self.min_lr <= self.max_lr <= 1:
            raise ConfigError(
                f"--max-lr must be at least {LEAST_RISE:g} times --min-lr={self.min_lr:g} and at "
                f"most 1, got {self.max_lr:g}; try {min(1.0, 1e4 * self.min_lr):g}"
            )
        if self.steps < LEAST_STEPS:
            raise ConfigError(f"--steps must be at least {LEAST_STEPS}, got {self.steps}; try 100")

    def rate(self, step: int) -> float:
        """The learning rate of a step, the first being 0."""
        return float(self.min_lr * (self.max_lr / self.min_lr) ** (step / (self.steps - 1)))


@dataclass(frozen=True)
class Point:
    """One step of the test."""

    step: int
    """Optimizer steps done."""
    lr: float
    loss: float
    """Training loss of this step's batch, before the step changed the weights."""


@dataclass(frozen=True)
class Curve:
    """What a test saw."""

    points: tuple[Point, ...]
    ended: str
    """Why it ended before its last step; empty if it did not."""

    @property
    def log_rates(self) -> Float64[np.ndarray, "points"]:
        """log10 of the learning rates."""
        return np.log10([point.lr for point in self.points])

    @property
    def losses(self) -> Float64[np.ndarray, "points"]:
        """The losses as they were."""
        return np.array([point.loss for point in self.points])

    @property
    def smoothed(self) -> Float64[np.ndarray, "points"]:
        """The losses, each averaged with its neighbours."""
        x = self.log_rates
        width = max([SMOOTHING_DECADES, *np.diff(x[:2])])
        weights = np.exp(-0.5 * ((x[:, None] - x[None]) / width) ** 2)
        return np.asarray(weights @ self.losses / weights.sum(axis=1))


@dataclass(frozen=True)
class Suggestion:
    """The bounds of a cycle."""

    base_lr: float
    peak_lr: float
    notes: tuple[str, ...]
    """What makes them doubtful."""


def range_test(
    config: ExperimentConfig, shards: Shards, rise: Rise, on_step: Callable[[Progress], None]
) -> Curve:
    """Train while the learning rate rises; writes nothing, and no validation is done.

    Everything but the learning rate is the training's own: batches, loss, clipping, optimizer and
    first weights. Several workers' share is computed here, one after the other.

    Raises: TrainingDiverged: the very first loss is not finite.
        EnvironmentFault: no GPU where one is asked for.
    """
    training = config.training
    device = training_device(training)
    points: list[Point] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        learner = Learner(config, shards.manifest.ab, device, Workers(0, 1))
        batches = train_batches(shards, config.data, learner.images_per_pass, training.seed)
        average = lowest = math.inf
        start = time.perf_counter()
        for step in range(rise.steps):
            lr = rise.rate(step)
            taken = learner.optimize(batches, step, lr)
            if taken.problem and not taken.overflow:
                if not points:
                    raise TrainingDiverged(1, taken.problem, taken.problem_value, lr, None)
                return Curve(tuple(points), f"{taken.problem} was not a finite number")
            loss = taken.totals["loss"] / training.batch_size
            points.append(Point(step + 1, lr, loss))
            images_per_s = (step + 1) * training.batch_size / (time.perf_counter() - start)
            eta_s = (rise.steps - step - 1) * training.batch_size / images_per_s
            on_step(Progress(step + 1, rise.steps, loss, lr, images_per_s, eta_s))
            average = AVERAGING * average + (1 - AVERAGING) * loss if step else loss
            lowest = min(lowest, average)
            if average > DIVERGED * lowest:
                break
    ended = f"the loss was {DIVERGED:g} times its lowest" if len(points) < rise.steps else ""
    return Curve(tuple(points), ended)


def suggested(curve: Curve) -> Suggestion | None:
    """Base and peak learning rate by the rule above; None if the loss did not fall."""
    if len(curve.points) < 3:  # a curve that has a middle
        return None
    x, y = curve.log_rates, curve.smoothed
    lowest = int(y.argmin())
    fall = y[0] - y[lowest]
    if fall <= max(NOISES * _noise(curve), LEAST_FALL * abs(y[0])):
        return None
    done = (y[0] - np.minimum.accumulate(y[: lowest + 1])) / fall  # rises from 0 to 1
    base, peak = (
        _rounded(at) for at in np.interp((START_SHARE, SLOW_SHARE), done, x[: lowest + 1])
    )
    notes = []
    if base < curve.points[0].lr * 10**SMOOTHING_DECADES:
        notes.append("the loss fell from the first step on: lower --min-lr to see base_lr")
    if lowest == len(y) - 1:
        notes.append("the loss was still falling at the end: raise --max-lr to see peak_lr")
    return Suggestion(base, peak, tuple(notes))


def _noise(curve: Curve) -> float:
    """Standard deviation of a loss, told from how much neighbours differ; a trend hardly adds.

    The median keeps the diverging end out; 0.6745 is the median of a normal deviate's size, and a
    difference of two has the square root of 2 times the deviation of one.
    """
    return float(np.median(np.abs(np.diff(curve.losses))) / (0.6745 * math.sqrt(2)))


def _rounded(log_rate: float) -> float:
    """A learning rate of two digits: the test knows no more."""
    return float(f"{10**log_rate:.1e}")


def flags(suggestion: Suggestion) -> Sequence[str]:
    """The options of `tintlab train` that take the suggestion up."""
    base, peak = f"{suggestion.base_lr:g}", f"{suggestion.peak_lr:g}"
    return ["--schedule.base-lr", base, "--schedule.peak-lr", peak]
