"""How far a training is; light, because processes that only pass it on should start at once."""

from dataclasses import dataclass


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
    eta_s: float
    """Time that the steps left will take at that speed, without validations."""
