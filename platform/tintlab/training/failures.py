"""How a training ends before its last step, and which of its failures are worth another try."""

from pathlib import Path
from typing import Any, Literal

from tintlab.errors import (
    ConfigError,
    ConflictError,
    EnvironmentFault,
    IntegrityError,
    TintlabError,
)
from tintlab.settings import TrainingConfig

FailureClass = Literal[
    "out_of_memory", "non_finite", "data", "settings", "environment", "code", "infrastructure"
]


class TrainingDiverged(TintlabError):
    """A loss, gradient or validation is not a finite number; the weights before it are intact."""

    def __init__(self, step: int, term: str, value: float, lr: float, kept: Path | None) -> None:
        self.step, self.term = step, term
        checkpoint = f"the last checkpoint is {kept}" if kept else "no checkpoint was written yet"
        super().__init__(
            f"training diverged at step {step}: {term} is {value} at learning rate {lr:g}; "
            f"lower schedule.peak_lr or optimizer.clip_norm ({checkpoint})"
        )

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses from workers to the driver
        return _diverged_again, (str(self), self.step, self.term)


def _diverged_again(message: str, step: int, term: str) -> TrainingDiverged:
    error = TrainingDiverged.__new__(TrainingDiverged, message)  # as it is by now worded
    error.step, error.term = step, term
    return error


class OutOfMemory(EnvironmentFault):
    """The device or the machine has no memory left for one more backward pass or validation."""


class TrainingStopped(TintlabError):
    """The training was asked to stop, and did, with a checkpoint of its last step."""

    def __init__(self, step: int, total_steps: int) -> None:
        self.step = step
        self._arguments = (step, total_steps)
        super().__init__(
            f"stopped after step {step} of {total_steps}, which is kept; "
            "the same command goes on from there"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in the machine's memory."""
    import torch  # a second of imports, which a driver can do without

    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    # torch 2.14, c10/core/impl/alloc_cpu.cpp: a plain RuntimeError with this text.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def out_of_memory(doing: str, training: TrainingConfig, images_per_pass: int) -> OutOfMemory:
    """The error for a failed allocation: what to change, in the order of what it costs."""
    changes = []
    if images_per_pass > 1:
        changes.append(f"training.accumulation={2 * training.accumulation}")
    if training.loss_chunks == 1:
        changes.append("training.loss_chunks=16")
    if not training.activation_checkpointing:
        changes.append("training.activation_checkpointing")
    if training.gpus_per_worker and training.precision == "fp32":
        changes.append("training.precision=bf16")
    if training.workers > 1 and training.parallelism == "ddp":
        changes.append("training.parallelism=fsdp")
    changes.append("a smaller data.crop_px or model.depth")
    return OutOfMemory(
        f"out of memory in {doing}, with {images_per_pass} photos in one backward pass; "
        f"use {', or '.join(changes)}"
    )


def failure_class(error: BaseException) -> FailureClass:
    """What kind of failure an error is; only `infrastructure` may go well on another try."""
    if is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, TrainingDiverged):
        return "non_finite"
    if isinstance(error, IntegrityError):
        return "data"
    if isinstance(error, ConfigError):
        return "settings"
    if isinstance(error, ConflictError):  # the process that trained it before is still ending
        return "infrastructure"
    if isinstance(error, TintlabError):  # found and said by our own code: no photos, disk full
        return "environment"
    lost = isinstance(error, OSError) or type(error).__module__.startswith("ray.")
    return "infrastructure" if lost or _is_lost_connection(error) else "code"


def _is_lost_connection(error: BaseException) -> bool:
    """Of workers to each other, or to a GPU."""
    import torch

    # gloo's and CUDA's own are plain RuntimeErrors that name their library (torch 2.14).
    libraries = ("gloo", "NCCL", "CUDA error")
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in libraries)
    )
