"""What a training is asked for and what it leaves; light, because processes that only pass it on
should start at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MAY_CHANGE = frozenset(
    {
        "data.loader_threads",
        *(
            f"training.{key}"
            for key in (
                *("keep_last", "keep_best", "hang_timeout_s", "max_restarts"),
                *("workers", "min_workers", "gpus_per_worker", "parallelism", "compile"),
                *("accumulation", "loss_chunks", "activation_checkpointing", "channels_last"),
                "skip_non_finite_steps",
            )
        ),
    }
)
"""Settings that a run may go on with other values of: how and where it is computed, not what is
learned. A run that ran out of memory, or moves to another machine, needs it."""


@dataclass(frozen=True)
class RunRequest:
    """Which run a training belongs to; `identity` finds the same run again after any crash."""

    experiment: str
    name: str
    identity: str
    parent: str | None = None
    """Identity of the sweep's run."""
    tags: Mapping[str, str] = field(default_factory=dict)
    flush_timeout_s: float = 60.0
    """How long the end of a training waits for the tracking store; the spool keeps the rest."""


@dataclass(frozen=True)
class Outcome:
    """What a finished training leaves: its run, its model folder and its last metrics."""

    run_id: str
    model: str
    metrics: dict[str, float]
    steps: int

    @property
    def next_step(self) -> str:
        """What may be done now; a run that no store knows yet cannot be promoted."""
        return f"promote --run {self.run_id}" if self.run_id else "track sync"
