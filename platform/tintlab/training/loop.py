"""The training loop: one function, for one process or for every rank of torch.distributed.

What a step computes is a function of (config, data set, position in the training stream) alone.
Photos, crops and flips come from the position (data/batches.py); dropout does too: before every
micro-batch torch's generator is seeded from (seed, step, micro-batch). So a checkpoint needs no
generator states, a validation may draw what it likes, and one worker with two micro-batches draws
what two workers with one draw. Dropout layers take no generator, hence the global one; it is given
back to the caller as it was found.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from tintlab.config import ExperimentConfig, TrainingConfig
from tintlab.data.batches import Batch, train_batches
from tintlab.data.shards import Shards
from tintlab.errors import (
    ConfigError,
    ConflictError,
    EnvironmentFault,
    IntegrityError,
    TintlabError,
)
from tintlab.model.colorizer import Colorizer
from tintlab.training.checkpoints import Checkpoints, State, read_state, restore, verify
from tintlab.training.objective import Objective
from tintlab.training.optimizer import adamw, ema_decay, update_ema
from tintlab.training.schedule import evaluates_after, learning_rate

KEEP_LAST = 2
"""Newest checkpoints kept: the second is there if the first is damaged."""

KEEP_BEST = 1
"""Checkpoints of lowest val/bits_per_dim kept beside them."""


class TrainingDiverged(TintlabError):
    """A loss, gradient or validation is not a finite number; the weights before it are intact."""

    def __init__(self, step: int, term: str, value: float, lr: float, kept: Path | None) -> None:
        self.step, self.term = step, term
        self._arguments = (step, term, value, lr, kept)
        checkpoint = f"the last checkpoint is {kept}" if kept else "no checkpoint was written yet"
        super().__init__(
            f"training diverged at step {step}: {term} is {value} at learning rate {lr:g}; "
            f"lower schedule.peak_lr or optimizer.clip_norm ({checkpoint})"
        )

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses from workers to the driver
        return type(self), self._arguments


@dataclass(frozen=True)
class Progress:
    """How far a training is, after every optimizer step."""

    step: int
    """Optimizer steps done."""
    total_steps: int
    loss: float
    """Training loss of this step, over all workers."""
    lr: float
    images_per_s: float
    """Over all workers since the last report, validation and checkpoints not counted."""


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
) -> Path:
    """Train to `training.steps`, keeping checkpoints in `folder`, and return the last one.

    Rank and number of workers are those of torch.distributed where it is initialised; the global
    batch is `training.batch_size` for any number of them. On the CPU the result is bit for bit the
    same whether training ran through or was resumed, any number of times.

    Args:
        validate, report: called at every validation, on every rank.
        resume: the checkpoint to go on from; None starts from step 0.
        progress: called after every step, on every rank where it is given.
    Raises:
        TrainingDiverged: a term, the gradient or val/bits_per_dim is not finite.
        ConfigError: the batch does not divide over the workers, or `resume` is of another model.
        ConflictError: `resume` is of another data set, or `folder` holds a later checkpoint.
        IntegrityError: `resume` is damaged.
        EnvironmentFault: no GPU where one is asked for, or a checkpoint cannot be written.
    """
    device = _device(config.training)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        course = _Course(config, shards, folder, device)
        return course.run(validate, report, resume, progress or (lambda _: None))


@dataclass
class _Sums:
    """Exact sums over the photos of all workers since the last report."""

    totals: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0

    def add(self, totals: dict[str, float], images: int, seconds: float) -> None:
        for term, total in totals.items():
            self.totals[term] = self.totals.get(term, 0.0) + total
        self.images += images
        self.seconds += seconds

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    def metrics(self) -> dict[str, float]:
        means = {f"train/{term}": total / self.images for term, total in self.totals.items()}
        return {**means, "perf/images_per_s": self.images_per_s}


class _Course:
    """One training on one rank: what is learned, and how far it is."""

    def __init__(
        self, config: ExperimentConfig, shards: Shards, folder: Path, device: torch.device
    ) -> None:
        self.config = config
        self.shards = shards
        self.checkpoints = Checkpoints(folder)
        self.device = device
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.world_size = distributed.get_world_size() if together else 1
        self.micro_batch = _micro_batch(config.training, self.world_size)
        torch.manual_seed(config.training.seed)
        self.model = Colorizer(config.model, config.bins).to(device)
        if config.training.activation_checkpointing:
            self.model.recompute_activations()
        self.objective = Objective(self.model, config, shards.manifest.ab).to(device)
        self.ema = deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = adamw(self.model, config.optimizer)
        self.step = 0  # optimizer steps done
        self.kept: Path | None = None

    def run(
        self,
        validate: Validate,
        report: Callable[[Report], None],
        resume: Path | None,
        progress: Callable[[Progress], None],
    ) -> Path:
        training = self.config.training
        repeated = self._resume(resume) if resume is not None else None
        self._refuse_later_checkpoints()
        if repeated is not None:
            report(repeated)
        if resume is not None and self.step == training.steps:
            return resume
        forward = self._forward()
        batches = self._batches()
        sums, since = _Sums(), time.perf_counter()
        while self.step < training.steps:
            lr = learning_rate(self.step, self.config.schedule, training.steps)
            totals = self._optimize(forward, batches, lr)
            self.step += 1
            now = time.perf_counter()
            sums.add(totals, training.batch_size, now - since)
            since = now
            loss = totals["loss"] / training.batch_size
            progress(Progress(self.step, training.steps, loss, lr, sums.images_per_s))
            if evaluates_after(self.step, self.config):
                report(self._evaluate(validate, {**sums.metrics(), "lr": lr}))
                sums, since = _Sums(), time.perf_counter()
        assert self.kept is not None  # the last step always writes one
        return self.kept

    def _resume(self, checkpoint: Path) -> Report:
        """Take up a checkpoint, and say again what was reported with it."""
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
        restore(checkpoint, self.model, self.ema, self.optimizer)
        self.step = state.step
        self.kept = checkpoint
        finished = self.step == steps
        mine = checkpoint if self.rank == 0 else None
        return Report(self.step, state.metrics, None, mine, finished, repeated=True)

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

    def _forward(self) -> nn.Module:
        """The loss as it is called: averaging gradients over the workers, if there are several."""
        if self.world_size == 1:
            return self.objective
        return DistributedDataParallel(
            self.objective, device_ids=[self.device] if self.device.type == "cuda" else None
        )

    def _batches(self) -> Iterator[Batch]:
        training = self.config.training
        return train_batches(
            self.shards,
            self.config.data,
            self.micro_batch,
            training.seed,
            rank=self.rank,
            world_size=self.world_size,
            start=self.step * training.accumulation,
        )

    def _optimize(
        self, forward: nn.Module, batches: Iterator[Batch], lr: float
    ) -> dict[str, float]:
        """One optimizer step; returns the sums of the terms over the global batch."""
        accumulation = self.config.training.accumulation
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.objective.terms
        sums = torch.zeros(len(terms), dtype=torch.float64, device=self.device)
        for micro in range(accumulation):
            self._seed_dropout(micro)
            with _kept_local(forward) if micro < accumulation - 1 else nullcontext():
                sums += self._backward(forward, next(batches))
        gradient = clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        if self.world_size > 1:
            distributed.all_reduce(sums)
        # Waits for the device, as the range check of the colours did; before the update, so that
        # no bad one is made.
        *values, norm = torch.cat([sums, gradient.double().view(1)]).tolist()
        totals = dict(zip(terms, values, strict=True))
        for term in reversed(terms):  # the loss last: it follows from the others
            self._must_be_finite(self.step + 1, term, totals[term], lr)
        self._must_be_finite(self.step + 1, "gradient norm", norm, lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        update_ema(self.ema, self.model, ema_decay(self.step, self.config.optimizer))
        return totals

    def _backward(self, forward: nn.Module, batch: Batch) -> Float64[Tensor, "terms"]:
        """Add one micro-batch's share to the gradients; returns the sums of the terms over it."""
        L, ab = (plane.to(self.device, non_blocking=True) for plane in (batch.L, batch.ab))
        with self._autocast():
            total, means = forward(L, ab)
        (total / self.config.training.accumulation).backward()
        return means.double() * len(batch.ids)

    def _autocast(self) -> AbstractContextManager[None]:
        if self.config.training.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _seed_dropout(self, micro: int) -> None:
        # Place of this micro-batch among those of all workers, in the order of the stream.
        place = micro * self.world_size + self.rank
        key = f"dropout {self.config.training.seed} {self.step} {place}".encode()
        torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))

    def _must_be_finite(self, step: int, term: str, value: float, lr: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(step, term, value, lr, self.kept)

    def _evaluate(self, validate: Validate, trained: dict[str, float]) -> Report:
        """Validate the averaged model, write a checkpoint, and say what was found."""
        if self.world_size > 1:
            for buffer in self.ema.buffers():  # batch norm's statistics are each rank's own
                distributed.broadcast(buffer, src=0)
        with torch.no_grad():
            validated, panel = validate(self.ema, self.shards)
        self.ema.eval()
        if "val/bits_per_dim" in validated:
            score = validated["val/bits_per_dim"]
            self._must_be_finite(self.step, "val/bits_per_dim", score, trained["lr"])
        metrics = {**trained, **validated}
        if self.rank == 0:
            self._save(metrics)
        self.kept = self.checkpoints.at(self.step)
        if self.world_size > 1:
            distributed.barrier()  # no rank reports a step whose checkpoint is not yet on the disk
        mine = self.kept if self.rank == 0 else None
        return Report(self.step, metrics, panel, mine, self.step == self.config.training.steps)

    def _save(self, metrics: dict[str, float]) -> None:
        state = State(
            step=self.step,
            images_seen=self.step * self.config.training.batch_size,
            data_fingerprint=self.shards.manifest.fingerprint,
            metrics=metrics,
            config=self.config,
        )
        self.checkpoints.save(state, self.model, self.ema, self.optimizer)
        self.checkpoints.prune(KEEP_LAST, KEEP_BEST)


def _kept_local(forward: nn.Module) -> AbstractContextManager[None]:
    """Gradients of a backward pass in here are averaged over the workers by a later one."""
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


def _device(training: TrainingConfig) -> torch.device:
    """The CPU, or the GPU that the launcher has made this process's current one."""
    if training.gpus_per_worker == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EnvironmentFault(
            f"training.gpus_per_worker={training.gpus_per_worker:g}, but this process sees no GPU; "
            "set it to 0 to train on the CPU"
        )
    return torch.device("cuda", torch.cuda.current_device())


def _micro_batch(training: TrainingConfig, world_size: int) -> int:
    """Images of one backward pass on one worker."""
    share = world_size * training.accumulation
    if training.batch_size % share:
        low = training.batch_size // share * share
        nearest = f"{low} or {low + share}" if low else f"{share}"
        raise ConfigError(
            f"training.batch_size must be a multiple of {world_size} workers * "
            f"accumulation={training.accumulation}, got {training.batch_size}; use {nearest}"
        )
    return training.batch_size // share
