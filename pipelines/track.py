"""track: send what dead processes left unsent to the tracking store."""

import sys
from dataclasses import asdict, dataclass
from typing import Literal

from tyro.conf import Positional

from tintlab.command import StageCommand
from tintlab.console import Result


@dataclass(frozen=True)
class Command(StageCommand):
    """sync: replay the spool of processes that died or could not reach the store."""

    verb: Positional[Literal["sync"]]
    """What to do."""


def main(command: Command) -> Result:
    """Send it, and say how much it was."""
    from tintlab.tracking.sync import sync, unsent

    if command.dry_run:
        waiting = unsent(command.place)
        return Result({"unsent": waiting}, f"{waiting} runs have something unsent")
    done = sync(command.place)
    text = f"{done.records} records of {done.runs} runs sent; {done.still_open} runs are still open"
    return Result(asdict(done), text)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["track", *sys.argv[1:]]))
