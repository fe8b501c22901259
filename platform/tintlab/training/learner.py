"""What learns: the model, its loss, its optimizer and its moving average, on one worker.

One optimizer step is

    passes x (forward, backward) -> mean over workers -> clip -> AdamW -> moving average

and what it computes is a function of (config, data set, step) alone. Photos, crops and flips come
from their place in the training stream (data/batches.py); dropout does too: before every backward
pass torch's generator is seeded from (seed, step, place of the pass among those of all workers).
So a checkpoint needs no generator states, and one worker with two passes draws what two workers
with one draw. Dropout layers take no generator, hence the global one.

fp16 is too coarse for small gradients, so the loss is multiplied before the backward pass and the
gradients are divided after it: Micikevicius et al. 2018, Mixed Precision Training, arXiv
1710.03740, sec. 3.2. torch's GradScaler decides per worker from its own share of the gradients; the
norm over all workers' gradients is here anyway, and decides the same on each.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from tintlab.config import ExperimentConfig
from tintlab.data.batches import Batch
from tintlab.data.shard_format.ab_statistics import AbStatistics
from tintlab.errors import ConfigError
from tintlab.model.colorizer import Colorizer
from tintlab.training.objective import Objective
from tintlab.training.optimizer import (
    adamw,
    ema_decay,
    load_moments,
    moments_by_name,
    update_ema,
)
from tintlab.training.workers import (
    Tensors,
    Workers,
    fill,
    gradients_kept_local,
    joined,
    whole,
    whole_on_first,
)

FIRST_SCALE, LEAST_SCALE = 2.0**16, 1.0
GROWTH_STEPS = 2000
"""fp16: the scale doubles after so many steps without overflow, and halves at one; the values are
those of torch.amp.GradScaler."""


@dataclass
class LossScale:
    """fp16's factor of the loss; 1 for ever in other precisions."""

    value: float
    good_steps: int = 0

    def no_overflow(self) -> None:
        """Another step whose gradients were finite."""
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.value, self.good_steps = 2 * self.value, 0

    def overflow(self) -> None:
        """A step whose gradients were not."""
        self.value, self.good_steps = self.value / 2, 0


@dataclass(frozen=True)
class Step:
    """What one optimizer step came to, over all workers."""

    totals: dict[str, float]
    """Sums of the loss and its terms over the photos of the batch."""
    gradient_norm: float
    """Before clipping."""
    stop: bool
    """Whether some worker was asked to stop."""
    problem: str | None
    """The first of terms and gradient norm that is not finite; the weights were then left alone."""
    overflow: bool = False
    """The problem is one of fp16's range only, and the next step has a smaller scale."""

    @property
    def problem_value(self) -> float:
        """What is not finite."""
        return self.totals.get(self.problem or "", self.gradient_norm)


class Learner:
    """One worker's part in training one model."""

    def __init__(
        self,
        config: ExperimentConfig,
        statistics: AbStatistics,
        device: torch.device,
        workers: Workers,
    ) -> None:
        """Args: statistics: of the train split, for rebalancing.

        Raises: ConfigError: the batch does not divide over the workers, or the statistics do not
            fit the bins. EnvironmentFault: something that is configured is not on this machine.
        """
        training = config.training
        self.config, self.device, self.workers = config, device, workers
        try:
            self.images_per_pass, self.passes = training.passes(workers.count)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        torch.manual_seed(training.seed)
        # What is shared out is built in main memory, and goes to the device in shares.
        shares = training.parallelism == "fsdp" and workers.count > 1
        built_on = torch.device("cpu") if shares else device
        self.model = Colorizer(config.model, config.bins).to(built_on)
        if training.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if training.activation_checkpointing:
            self.model.recompute_activations()
        self.objective = Objective(self.model, config, statistics).to(built_on)
        self.ema = deepcopy(self.model).eval().requires_grad_(False)
        how = training.parallelism
        if how == "fsdp":
            joined(self.ema, self.ema.blocks(), how, workers, device)
        forward = joined(self.objective, self.model.blocks(), how, workers, device)
        self.forward = torch.compile(forward) if training.compile else forward
        self._local = forward
        self.optimizer = adamw(self.model, config.optimizer)
        self.scale = LossScale(FIRST_SCALE if training.precision == "fp16" else 1.0)

    def optimize(self, batches: Iterator[Batch], step: int, lr: float, stop: bool = False) -> Step:
        """Optimizer step number `step`, the first being 0; a problem changes no weight.

        Args: stop: this worker was asked to stop; travels with the sums, at no cost.
        """
        self.model.train()
        # Moving statistics (batch norm) are moved by the forward pass already.
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.objective.terms
        sums = torch.zeros(len(terms) + 1, dtype=torch.float64, device=self.device)
        sums[-1] = float(stop)
        for index in range(self.passes):
            self._seed_dropout(step, index)
            last = index == self.passes - 1
            with nullcontext() if last else gradients_kept_local(self._local):
                sums[:-1] += self._backward(next(batches))
        if self.scale.value != 1.0:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.scale.value)
        norm = clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        norm = whole({"norm": norm})["norm"]
        self.workers.add_up(sums)
        # Waits for the device, as the range check of the colours did; before the update, so that
        # no bad one is made.
        *values, stops, gradient_norm = torch.cat([sums, norm.double().view(1)]).tolist()
        totals = dict(zip(terms, values, strict=True))
        # The loss last of the terms: it follows from the others.
        checked = [*((t, totals[t]) for t in reversed(terms)), ("gradient norm", gradient_norm)]
        problem = next((name for name, value in checked if not math.isfinite(value)), None)
        overflow = False
        if problem is None:
            self._update(step, lr)
            if self.config.training.precision == "fp16":
                self.scale.no_overflow()
        else:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
            if problem == "gradient norm" and self.scale.value > LEAST_SCALE:
                overflow = True
                self.scale.overflow()
        return Step(totals, gradient_norm, stops > 0, problem, overflow)

    def averaged(self) -> Colorizer:
        """The averaged model, whole, in eval mode; every worker must call it."""
        # Batch norm's statistics are each worker's own.
        self.workers.take_from_first(self.ema.buffers())
        if self.workers.count == 1 or self.config.training.parallelism == "ddp":
            return self.ema.eval()
        model = Colorizer(self.config.model, self.config.bins).to(self.device)
        model.load_state_dict(whole(self.ema.state_dict()))
        return model.eval().requires_grad_(False)

    def tensors(self) -> tuple[Tensors, Tensors, Tensors]:
        """Weights, averaged weights and the optimizer's moments, whole and in main memory, on the
        first worker; nothing on the others, but every worker must call it."""
        parts = (self.model.state_dict(), self.ema.state_dict(), moments_by_name(self.optimizer))
        weights, ema, moments = (whole_on_first(part, self.workers) for part in parts)
        return weights, ema, moments

    def take_up(self, weights: Tensors, ema: Tensors, moments: Tensors, source: str) -> None:
        """The inverse of `tensors`, for any number of workers.

        Raises: IntegrityError: names or shapes are not this model's; names `source`.
        """
        fill(self.model, weights, source)
        fill(self.ema, ema, source)
        load_moments(self.optimizer, moments)

    def _backward(self, batch: Batch) -> Float64[Tensor, "terms"]:
        """Add one pass's share to the gradients; returns the sums of the terms over it."""
        L, ab = (plane.to(self.device, non_blocking=True) for plane in (batch.L, batch.ab))
        with self._autocast():
            total, means = self.forward(L, ab)
        (total * self.scale.value / self.passes).backward()
        return means.double() * len(batch.ids)

    def _update(self, step: int, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        update_ema(self.ema, self.model, ema_decay(step, self.config.optimizer))

    def _autocast(self) -> AbstractContextManager[None]:
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        precision = self.config.training.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=dtypes[precision])

    def _seed_dropout(self, step: int, index: int) -> None:
        # Place of this pass among those of all workers, in the order of the stream.
        place = index * self.workers.count + self.workers.rank
        key = f"dropout {self.config.training.seed} {step} {place}".encode()
        torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
