"""Which of a training's checkpoints is used, and which are kept: the same for any storage."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tintlab.errors import IntegrityError

Place = TypeVar("Place")
"""Where a checkpoint is: a local folder, or a name on remote storage."""

_FOLDER = re.compile(r"step-(\d{8,})")


class DamagedCheckpoint(UserWarning):
    """A checkpoint cannot be used, and an older one takes its place."""


class OtherVersion(IntegrityError):
    """An undamaged checkpoint of another tintlab's format."""


def warn_damaged(message: str) -> None:
    """Say that a checkpoint was passed over, where nobody else does."""
    warnings.warn(message, DamagedCheckpoint, 3)


def in_order(places: Iterable[Place], name: Callable[[Place], str]) -> list[Place]:
    """Those that are named like a checkpoint, oldest first."""
    found = [place for place in places if _FOLDER.fullmatch(name(place))]
    return sorted(found, key=lambda place: int(name(place).removeprefix("step-")))


def newest_intact(
    oldest_first: Sequence[Place],
    intact: Callable[[Place], Path],
    source: str,
    say: Callable[[str], None],
) -> Path | None:
    """The newest checkpoint that `intact` does not refuse with an IntegrityError, as its folder.

    Args: source: names where they are; say: told of each that is passed over.
    Raises: IntegrityError: there are some, and all are refused. OtherVersion: one is.
    """
    problems: list[str] = []
    for place in reversed(oldest_first):
        try:
            folder = intact(place)
        except OtherVersion:
            raise
        except IntegrityError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            say(f"{problem}; using {folder.name} instead")
        return folder
    if problems:
        raise IntegrityError(
            f"no usable checkpoint in {source}: {problems[0]}; "
            "delete that folder to train from the start"
        )
    return None


def superseded(
    oldest_first: Sequence[tuple[Place, Mapping[str, float]]], keep_last: int, keep_best: int
) -> list[Place]:
    """Those that are neither among the newest nor among those of the lowest val/bits_per_dim.

    Args: oldest_first: each with its metrics.
    """
    key = "val/bits_per_dim"
    scored = [(metrics[key], i) for i, (_, metrics) in enumerate(oldest_first) if key in metrics]
    kept = {i for _, i in sorted(scored)[:keep_best]}
    kept.update(range(max(0, len(oldest_first) - keep_last), len(oldest_first)))
    return [place for i, (place, _) in enumerate(oldest_first) if i not in kept]
