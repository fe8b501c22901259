"""promote: a run's model -> the registry's @champion, if it is better."""

import sys
from dataclasses import asdict, dataclass

from tintlab.command import StageCommand
from tintlab.console import Result


@dataclass(frozen=True)
class Command(StageCommand):
    """Register a run's model and make it @champion if its test bits beat the champion's."""

    run: str
    """The run id that train and sweep print."""
    shards: str | None = None
    """Lab shards; default the workspace's own."""


def main(command: Command) -> Result:
    """Promote, or exit 6 with the reason."""
    from tintlab.tracking.promotion import promote

    place = command.place
    done = promote(place, command.run, command.shards or place.shards, command.dry_run)
    if command.dry_run:
        text = f"run {done.run_id} would be promoted: {done.verdict}"
    elif done.changed:
        text = f"@champion is version {done.version} (run {done.run_id}): {done.verdict}"
    else:
        text = f"@champion stays version {done.version}: {done.verdict}"
    return Result(asdict(done), f"{text}\nnext: tintlab colorize PHOTO... --out DIR")


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["promote", *sys.argv[1:]]))
