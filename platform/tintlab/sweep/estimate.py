"""What a sweep will take, from a few training steps that are thrown away.

The base configuration is probed (`training.probe`); where the space searches something that changes
what a step costs, its extremes and variants are instead. Each probe has as many threads as a trial
will have. Early stopping saves what nobody knows beforehand: its bounds are given.
"""

import itertools
import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tintlab.config import ExperimentConfig
from tintlab.data.shards import open_shards
from tintlab.settings import TrainingConfig
from tintlab.sweep.question import Question
from tintlab.sweep.space import VARIANT, SearchSpace, When, outermost
from tintlab.sweep.stopping import ASHA_REDUCTION, rung_steps
from tintlab.training import probe
from tintlab.training.resources import fitting

COSTLY = ("model.", "bins.", "data.", "training.", "evaluation.", "loss.perceptual")
"""Beginnings of the keys that change what a step or a validation costs."""

MOST_PROBES = 6
"""Configurations that are probed, some seconds each."""


@dataclass(frozen=True)
class Probed:
    """One configuration's training, as probed."""

    values: dict[str, Any]
    """Of the searched keys that change its cost; none for the base configuration."""
    training: probe.Estimate

    @property
    def label(self) -> str:
        """The values in words."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "every trial"


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take. Ranges are from the least to the most that is to be expected."""

    trials: int
    replicates: int
    trials_at_once: int
    resources: dict[str, float]
    """Of each run, `{"CPU": 1.0}`: all of its workers together."""
    probed: tuple[Probed, ...]
    stopping: str
    least_share: float
    """Of all steps, if early stopping stops whom it can; 1 without."""
    hours: tuple[float, float]
    """By the clock, if runs at the same time do not slow each other, without starting."""
    gpu_hours: tuple[float, float]
    memory_mb: float
    """Of the largest probed, times the runs at once."""
    available_mb: float
    advice: str
    """What to change if the memory is not there."""

    @property
    def runs(self) -> int:
        """Trainings, if none is stopped."""
        return self.trials * self.replicates

    @property
    def text(self) -> str:
        """The same for people."""
        seeds = f" x {self.replicates} seeds = {self.runs} runs" if self.replicates > 1 else ""
        each = " and ".join(f"{amount:g} {kind}" for kind, amount in self.resources.items())
        lines = [f"{self.trials} trials{seeds}, {self.trials_at_once} at once, {each} each"]
        for one in self.probed:
            of = one.training
            lines.append(
                f"{one.label}: {of.parameters:,} parameters, {1000 * of.step_s:.1f} ms a step, "
                f"{of.total_s / 60:.1f} minutes on the {of.device}"
            )
        gpus = f", {_range(self.gpu_hours)} GPU-hours" if self.gpu_hours[1] else ""
        lines.append(f"{_range(self.hours)} hours{gpus}, without starting")
        if self.least_share < 1:
            lines.append(
                f"({self.stopping} saves between nothing and {1 - self.least_share:.0%} of it, "
                "which is in the range)"
            )
        lines.append(f"{self.memory_mb:.0f} MB of memory at once, {self.available_mb:.0f} there")
        return "\n".join([*lines, *([f"IT WILL NOT FIT: {self.advice}"] if self.advice else [])])


def estimate(
    question: Question, base: ExperimentConfig, shards_uri: str, trials: int, at_once: int
) -> Estimate:
    """Probe what the sweep would train; writes nothing.

    The machine that asks is probed: on a cluster, the nodes that train may be others.

    Args: at_once: trials that train at the same time.
    Raises: EnvironmentFault: no shards, or no GPU where one is asked for. OutOfMemory: not even one
        step of the largest can be made.
    """
    space, shards = question.space, open_shards(shards_uri)
    cores, training = os.cpu_count() or 1, base.training
    here = {"CPU": float(cores), "GPU": float(torch.cuda.device_count())}
    at_once = fitting(training, min(at_once, trials * space.replicates), here)
    threads = max(1, cores // at_once)
    with _threads(threads):
        probed = tuple(
            Probed(_costly(space, values), probe.probe(space.experiment(base, values), shards))
            for values in representatives(space, base)
        )
    seconds = [one.training.total_s for one in probed]
    gpus = [one.training.gpu_hours for one in probed]
    share = least_share(space, training)
    runs = trials * space.replicates
    # Variants and exhaustive spaces have as many trials of each; others end somewhere in between.
    least, most = min(seconds), max(seconds)
    least_gpu, most_gpu = min(gpus), max(gpus)
    if space.exhaustive:
        least = most = statistics.fmean(seconds)
        least_gpu = most_gpu = statistics.fmean(gpus)
    hours_each = runs / at_once / 3600
    largest = max(probed, key=lambda one: one.training.memory_mb).training
    memory_mb = largest.memory_mb * at_once
    fits = memory_mb <= largest.available_mb
    return Estimate(
        trials=trials,
        replicates=space.replicates,
        trials_at_once=at_once,
        resources=_resources(training, threads),
        probed=probed,
        stopping=space.stopping,
        least_share=share,
        hours=(least * share * hours_each, most * hours_each),
        gpu_hours=(least_gpu * share * runs, most_gpu * runs),
        memory_mb=memory_mb,
        available_mb=largest.available_mb,
        advice="" if fits else (largest.advice or f"lower --trials-at-once={at_once}"),
    )


def representatives(space: SearchSpace, base: ExperimentConfig) -> list[dict[str, Any]]:
    """Values of the trials to probe: one, or the extremes of what changes a step's cost."""
    costly = [key for key in space.choices if key in _costly(space, dict.fromkeys(space.choices))]
    if not costly:
        return [{}]
    of = {
        key: outermost(entry.distribution if isinstance(entry, When) else entry, few=2)
        for key, entry in space.choices.items()
    }
    every = list(itertools.product(*(of[key] for key in costly)))
    if len(every) > MOST_PROBES:  # the first has every least value, the last every largest
        last = len(every) - 1
        every = [every[round(n * last / (MOST_PROBES - 1))] for n in range(MOST_PROBES)]

    def drawn(values: tuple[Any, ...]) -> dict[str, Any]:
        picked = dict(zip(costly, values, strict=True))
        return space.drawn(lambda key, _: picked.get(key, of[key][0]), base)

    found = [drawn(values) for values in every]
    return [values for n, values in enumerate(found) if values not in found[:n]]


def least_share(space: SearchSpace, training: TrainingConfig) -> float:
    """The least share of all steps that early stopping leaves to be made.

    asha: one run in ASHA_REDUCTION passes each rung, and only the first seed of a configuration can
    be stopped. median: half of them stop at the first validation that has others to compare with.
    """
    steps, rungs = training.steps, rung_steps(training)
    if space.stopping == "none" or not rungs:
        return 1.0
    passing = 1 / 2 if space.stopping == "median" else 1 / ASHA_REDUCTION
    ends = rungs[:1] if space.stopping == "median" else rungs
    made, left = 0.0, 1.0
    for step in ends:
        made += left * (1 - passing) * step
        left *= passing
    first = (made + left * steps) / steps
    return (first + left * (space.replicates - 1)) / space.replicates


def _costly(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that change what a training costs."""

    def changes(key: str) -> bool:
        if key == VARIANT:
            return any(changes(each) for settings in space.variants.values() for each in settings)
        return key.startswith(COSTLY) and key != "training.seed"

    return {key: value for key, value in values.items() if changes(key)}


def _resources(training: TrainingConfig, threads: int) -> dict[str, float]:
    cpus = {"CPU": float(training.workers if training.workers > 1 else threads)}
    if not training.gpus_per_worker:
        return cpus
    cpus = {"CPU": float(training.workers)}
    return {**cpus, "GPU": training.gpus_per_worker * training.workers}


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _range(values: tuple[float, float]) -> str:
    low, high = (f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in values)
    return low if low == high else f"{low} to {high}"
