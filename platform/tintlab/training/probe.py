"""What a training will take, from a few of its steps: `tintlab train --dry-run`.

One worker's share of the steps is made here, on the real photos and the device that is asked for,
and thrown away. Time over several workers adds what they tell each other, which is not measured.
"""

import ctypes
import gc
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from tintlab.config import ExperimentConfig
from tintlab.data.batches import Batch, eval_batches, train_batches
from tintlab.data.shards import Shards
from tintlab.evaluation.evaluate import paint
from tintlab.evaluation.ladder import evaluating, teacher_forced
from tintlab.training.failures import is_out_of_memory, out_of_memory
from tintlab.training.learner import Learner
from tintlab.training.loop import training_device
from tintlab.training.schedule import learning_rate
from tintlab.training.workers import Workers

PROBE_STEPS = 20
WARM_UP_STEPS = 5
"""Of them, which allocate, compile and choose kernels, and are not in the time of a step."""


@dataclass(frozen=True)
class Estimate:
    """What a training will take; memory is that of one worker."""

    device: str
    parameters: int
    images_per_pass: int
    passes: int
    step_s: float
    """Median, once warm."""
    images_per_s: float
    """Of all workers, if they do not slow each other down."""
    validation_s: float
    validations: int
    total_s: float
    """All steps and validations, without starting."""
    gpu_hours: float
    memory_mb: float
    """Most that was in use, beyond what the process had before."""
    available_mb: float
    """What the device, or this worker's share of the machine, has."""
    checkpoint_mb: float
    fits: bool
    """Whether the memory is there."""
    advice: str
    """What to change if it is not."""

    @property
    def text(self) -> str:
        """The same for people."""
        batch = f"{self.passes} x {self.images_per_pass} photos a step on each worker"
        hours = f", {self.gpu_hours:.2f} GPU-hours" if self.gpu_hours else ""
        memory = f"{self.memory_mb:.0f} MB of memory for each worker, {self.available_mb:.0f} there"
        return "\n".join(
            [
                f"{self.parameters:,} parameters, {batch}, on the {self.device}",
                f"{1000 * self.step_s:.1f} ms a step, {self.images_per_s:.0f} images/s; "
                f"{self.validations} validations of {self.validation_s:.1f} s",
                f"{self.total_s / 60:.1f} minutes in all{hours}, without starting",
                f"{memory}; {self.checkpoint_mb:.1f} MB for each checkpoint",
                *([f"IT WILL NOT FIT: {self.advice}"] if self.advice else []),
            ]
        )


def probe(config: ExperimentConfig, shards: Shards) -> Estimate:
    """The estimate of a training.

    Raises: OutOfMemory: not even one step can be made. EnvironmentFault: no GPU where one is asked
        for, or no photo to validate with.
    """
    training = config.training
    images, passes = training.passes(training.workers)
    alone = config.replaced(
        {
            "training.batch_size": images * passes,
            "training.accumulation": passes,
            "training.workers": 1,
            "training.min_workers": 0,
        }
    )
    device = training_device(training)
    workers = Workers(0, 1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        before_mb, available_mb = _in_use_mb(device), _available_mb(device, config)
        try:
            learner = Learner(alone, shards.manifest.ab, device, workers)
            step_s = _steps(learner, alone, shards)
            validation_s = _validation_s(learner, config, shards)
            memory_mb = _peak_mb(device) - before_mb
        except Exception as error:
            if is_out_of_memory(error):
                raise out_of_memory("a trial step", training, images) from error
            raise
    validations = -(-training.steps // training.eval_every_steps)
    total_s = training.steps * step_s + validations * validation_s
    tensors = (tensor for part in learner.tensors() for tensor in part.values())
    fits = memory_mb <= available_mb
    return Estimate(
        device=device.type,
        parameters=learner.model.parameter_count,
        images_per_pass=images,
        passes=passes,
        step_s=step_s,
        images_per_s=training.batch_size / step_s,
        validation_s=validation_s,
        validations=validations,
        total_s=total_s,
        gpu_hours=total_s * training.gpus_per_worker * training.workers / 3600,
        memory_mb=memory_mb,
        available_mb=available_mb,
        checkpoint_mb=sum(t.numel() * t.element_size() for t in tensors) / 1e6,
        fits=fits,
        advice="" if fits else str(out_of_memory("training", training, images)),
    )


def _steps(learner: Learner, config: ExperimentConfig, shards: Shards) -> float:
    training = config.training
    batches = train_batches(shards, config.data, learner.images_per_pass, training.seed)
    seconds = []
    total = max(training.steps, PROBE_STEPS)
    for step in range(PROBE_STEPS):
        began = time.perf_counter()
        learner.optimize(batches, step, learning_rate(step, config.schedule, total))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM_UP_STEPS:])


def _validation_s(learner: Learner, config: ExperimentConfig, shards: Shards) -> float:
    """From one batch that is priced and the panel that is painted."""
    settings = config.evaluation
    model = learner.averaged()

    def batches(limit: int) -> Iterator[Batch]:
        return eval_batches(shards, "val", settings.crop_px, settings.batch_size, limit=limit)

    with evaluating(model):
        with _timed() as pricing:
            priced = sum(len(teacher_forced(model, b)[0]) for b in batches(settings.batch_size))
        with _timed() as painting:
            for batch in batches(settings.panel_images):
                paint(model, batch, settings.temperature, settings.seed)
    share = shards.count("val") / config.training.workers
    return pricing[0] * share / max(1, priced) + painting[0]


@contextmanager
def _timed() -> Iterator[list[float]]:
    seconds = [0.0]
    began = time.perf_counter()
    yield seconds
    seconds[0] = time.perf_counter() - began


def _in_use_mb(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_reserved(device) / 1e6
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's
        libc.malloc_trim(0)  # what lies idle in the heap would be used again, and seem to be free
    return psutil.Process().memory_info().rss / 1e6


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


def _available_mb(device: torch.device, config: ExperimentConfig) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e6
    return psutil.virtual_memory().available / 1e6 / config.training.workers
