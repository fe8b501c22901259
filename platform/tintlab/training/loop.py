"""The training loop: one function, for one process or for every rank of torch.distributed.

What a step computes is `learner.py`; here is when to validate, what to report, what to keep and
where to go on from. On the CPU a training that was stopped, killed or moved any number of times
ends with the same bits as one that ran through.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from tintlab.config import ExperimentConfig
from tintlab.data.batches import Batch, train_batches
from tintlab.data.shards import Shards
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, IntegrityError
from tintlab.model.colorizer import Colorizer
from tintlab.settings import TrainingConfig
from tintlab.training.checkpoints import (
    Checkpoints,
    SinceReport,
    State,
    read,
    read_state,
    verify,
)
from tintlab.training.failures import (
    TrainingDiverged,
    TrainingStopped,
    is_out_of_memory,
    out_of_memory,
)
from tintlab.training.learner import Learner, LossScale, Step
from tintlab.training.progress import Progress
from tintlab.training.schedule import evaluates_after, learning_rate
from tintlab.training.workers import Workers


@dataclass(frozen=True)
class Report:
    """What a training found at a validation."""

    step: int
    """Optimizer steps done."""
    metrics: dict[str, float]
    """train/* (means over every photo since the last report), val/*, lr and perf/images_per_s."""
    panel: UInt8[np.ndarray, "height width 3"] | None
    """A picture for people, if the validation made one."""
    checkpoint: Path | None
    """The checkpoint of this step, on the rank that wrote it (0)."""
    finished: bool
    """Whether this was the last step."""
    repeated: bool = False
    """The report of the checkpoint that training goes on from, once more: the process that wrote
    the checkpoint may have died before its report arrived."""


Validate = Callable[[Colorizer, Shards], tuple[dict[str, float], np.ndarray | None]]
"""Scores the averaged model; metrics are named val/... Called on every rank at the same steps."""


def train(
    config: ExperimentConfig,
    shards: Shards,
    folder: Path,
    validate: Validate,
    report: Callable[[Report], None],
    resume: Path | None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Path:
    """Train to `training.steps`, keeping checkpoints in `folder`, and return the last one.

    Rank and number of workers are those of torch.distributed where it is initialised; the global
    batch is `training.batch_size` for any number of them. On the CPU the result is bit for bit the
    same whether training ran through or was resumed, any number of times.

    Args:
        validate, report: called at every validation, on every rank.
        resume: the checkpoint to go on from; None starts from step 0.
        progress: called after every step, on every rank where it is given.
        stop: asked before every step; where one rank answers yes, all stop after that step.
    Raises:
        TrainingStopped: stopped on request, with a checkpoint of the last step.
        TrainingDiverged: a term, the gradient or val/bits_per_dim is not finite.
        OutOfMemory: an allocation failed.
        ConfigError: the batch does not divide over the workers, or `resume` is of another model.
        ConflictError: `resume` is of another data set, or `folder` holds a later checkpoint.
        IntegrityError: `resume` is damaged.
        EnvironmentFault: no GPU where one is asked for, or a checkpoint cannot be written.
    """
    device = training_device(config.training)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        course = _Course(config, shards, folder, device)
        return course.run(
            validate, report, resume, progress or (lambda _: None), stop or (lambda: False)
        )


class _Course:
    """One training on one rank: how far it is, and what it said."""

    def __init__(
        self, config: ExperimentConfig, shards: Shards, folder: Path, device: torch.device
    ) -> None:
        self.config = config
        self.shards = shards
        self.checkpoints = Checkpoints(folder)
        self.workers = Workers.here()
        self.learner = Learner(config, shards.manifest.ab, device, self.workers)
        self.step = 0  # optimizer steps done
        self.skipped = self.overflowed = 0
        self.since = SinceReport()
        self.kept: Path | None = None

    def run(
        self,
        validate: Validate,
        report: Callable[[Report], None],
        resume: Path | None,
        progress: Callable[[Progress], None],
        stop: Callable[[], bool],
    ) -> Path:
        training = self.config.training
        repeated = self._resume(resume) if resume is not None else None
        self._refuse_later_checkpoints()
        if repeated is not None:
            report(repeated)
        if resume is not None and self.step == training.steps:
            return resume
        if resume is not None and repeated is None and evaluates_after(self.step, self.config):
            last_lr = learning_rate(self.step - 1, self.config.schedule, training.steps)
            report(self._evaluate(validate, last_lr))
        batches = self._batches()
        began = time.perf_counter()
        while self.step < training.steps:
            lr = learning_rate(self.step, self.config.schedule, training.steps)
            taken = self._optimize(batches, lr, stop())
            self.step += 1
            now = time.perf_counter()
            self._count(taken, now - began)
            began = now
            progress(self._progress(taken, lr))
            if taken.stop and self.step < training.steps:
                self._keep({})  # without the validation that may be due: it takes its time
                raise TrainingStopped(self.step, training.steps)
            if evaluates_after(self.step, self.config):
                report(self._evaluate(validate, lr))
                began = time.perf_counter()
        assert self.kept is not None  # the last step always writes one
        return self.kept

    def _optimize(self, batches: Iterator[Batch], lr: float, stop: bool) -> Step:
        """One step; raises if it is not finite and may not be left out."""
        try:
            taken = self.learner.optimize(batches, self.step, lr, stop)
        except Exception as error:
            raise self._named(error, f"step {self.step + 1}") from error
        if taken.problem is not None:
            left_out = self.skipped - self.overflowed
            allowed = left_out < self.config.training.skip_non_finite_steps
            if not (taken.overflow or allowed):
                self._diverged(self.step + 1, taken.problem, taken.problem_value, lr)
            self.skipped += 1
            self.overflowed += taken.overflow
        return taken

    def _count(self, taken: Step, seconds: float) -> None:
        """Add a step to what the next report will say; one that was left out has no loss."""
        since, images = self.since, self.config.training.batch_size
        counted = taken.problem is None
        self.since = SinceReport(
            totals={
                term: since.totals.get(term, 0.0) + total for term, total in taken.totals.items()
            }
            if counted
            else since.totals,
            images=since.images + images * counted,
            seconds=since.seconds + seconds,
            images_timed=since.images_timed + images,
        )

    def _progress(self, taken: Step, lr: float) -> Progress:
        training = self.config.training
        images_per_s = self.since.images_per_s
        left = (training.steps - self.step) * training.batch_size / images_per_s
        loss = taken.totals["loss"] / training.batch_size
        return Progress(self.step, training.steps, loss, lr, images_per_s, left)

    def _resume(self, checkpoint: Path) -> Report | None:
        """Take up a checkpoint, and say again what was reported with it, if anything was."""
        state = read_state(checkpoint)
        for part in ("model", "bins"):
            before, now = getattr(state.config, part), getattr(self.config, part)
            for key, was in before.model_dump().items():
                if was != getattr(now, key):
                    raise ConfigError(
                        f"checkpoint {checkpoint} is of another model: {part}.{key} was {was!r}, "
                        f"got {getattr(now, key)!r}; resume with the same, or start a new run"
                    )
        if state.data_fingerprint != self.shards.manifest.fingerprint:
            raise ConflictError(
                f"checkpoint {checkpoint} was trained on data set {state.data_fingerprint}, "
                f"got {self.shards.manifest.fingerprint}; give the same shards, or start a new run"
            )
        batch_size, steps = self.config.training.batch_size, self.config.training.steps
        if state.images_seen != state.step * batch_size or state.step > steps:
            raise ConfigError(
                f"checkpoint {checkpoint} is at step {state.step}, {state.images_seen} photos: "
                f"training.steps={steps} of training.batch_size={batch_size} do not pass there; "
                "resume with the same batch_size and at least as many steps"
            )
        kept = read(checkpoint)
        self.learner.take_up(kept.weights, kept.ema, kept.moments, str(checkpoint))
        self.learner.scale = LossScale(state.loss_scale, state.steps_at_loss_scale)
        self.step, self.since = state.step, state.since_report
        self.skipped, self.overflowed = state.skipped_steps, state.overflowed_steps
        self.kept = checkpoint
        if not state.metrics:  # kept on request, between two reports
            return None
        mine = checkpoint if self.workers.rank == 0 else None
        return Report(self.step, state.metrics, None, mine, self.step == steps, repeated=True)

    def _refuse_later_checkpoints(self) -> None:
        """A later checkpoint of another course would be taken for this one's after a crash."""
        for checkpoint in reversed(self.checkpoints.all()):
            try:
                later = read_state(checkpoint).step > self.step
                verify(checkpoint)
            except IntegrityError:  # damaged, and so passed over: it will be written again
                continue
            if later:
                raise ConflictError(
                    f"{checkpoint} is later than step {self.step}, where this training starts; "
                    "resume from it, or delete it, or choose another folder"
                )
            return

    def _batches(self) -> Iterator[Batch]:
        learner = self.learner
        return train_batches(
            self.shards,
            self.config.data,
            learner.images_per_pass,
            self.config.training.seed,
            rank=self.workers.rank,
            world_size=self.workers.count,
            start=self.step * learner.passes,
        )

    def _diverged(self, step: int, term: str, value: float, lr: float) -> None:
        raise TrainingDiverged(step, term, value, lr, self.kept)

    def _named(self, error: Exception, doing: str) -> Exception:
        """The error, or OutOfMemory with what to change if it is a failed allocation."""
        if not is_out_of_memory(error):
            return error
        return out_of_memory(doing, self.config.training, self.learner.images_per_pass)

    def _evaluate(self, validate: Validate, lr: float) -> Report:
        """Validate the averaged model, write a checkpoint, and say what was found."""
        try:
            model = self.learner.averaged()
            with torch.no_grad():
                validated, panel = validate(model, self.shards)
        except Exception as error:
            raise self._named(error, f"the validation of step {self.step}") from error
        model.eval()
        for name, value in validated.items():  # PSNR may be infinite
            if name.endswith("bits_per_dim") and not math.isfinite(value):
                self._diverged(self.step, name, value, lr)
        metrics = {**self.since.metrics(), "lr": lr, **validated}
        if self.config.training.skip_non_finite_steps or self.config.training.precision == "fp16":
            metrics["train/skipped_steps"] = float(self.skipped)
        self.since = SinceReport()
        self._keep(metrics)
        mine = self.kept if self.workers.rank == 0 else None
        return Report(self.step, metrics, panel, mine, self.step == self.config.training.steps)

    def _keep(self, metrics: dict[str, float]) -> None:
        """Write a checkpoint of this step: rank 0 does, and no other goes on before it is there."""
        self.shards.require_unchanged()  # a checkpoint has learned from the photos that it names
        tensors = self.learner.tensors()
        if self.workers.rank == 0:
            state = State(
                step=self.step,
                images_seen=self.step * self.config.training.batch_size,
                data_fingerprint=self.shards.manifest.fingerprint,
                metrics=metrics,
                config=self.config,
                skipped_steps=self.skipped,
                overflowed_steps=self.overflowed,
                loss_scale=self.learner.scale.value,
                steps_at_loss_scale=self.learner.scale.good_steps,
                since_report=self.since,
            )
            self.checkpoints.save(state, *tensors)
            training = self.config.training
            self.checkpoints.prune(training.keep_last, training.keep_best)
        self.kept = self.checkpoints.at(self.step)
        self.workers.wait()


def training_device(training: TrainingConfig) -> torch.device:
    """The CPU, or the GPU that the launcher has made this process's current one.

    Raises: EnvironmentFault: a GPU is asked for, and this process sees none.
    """
    if training.gpus_per_worker == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EnvironmentFault(
            f"training.gpus_per_worker={training.gpus_per_worker:g}, but this process sees no GPU; "
            "set it to 0 to train on the CPU"
        )
    return torch.device("cuda", torch.cuda.current_device())
