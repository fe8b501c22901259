"""colorize: grey photos -> coloured photos, with a model of the registry."""

import sys
from dataclasses import dataclass

from tintlab.command import StageCommand, require_photos
from tintlab.console import Result
from tintlab.serving.colorize_options import ColorizeOptions


@dataclass(frozen=True)
class Command(ColorizeOptions, StageCommand):
    """Colour photos; each keeps its size and its own lightness."""


def main(command: Command) -> Result:
    """Colour the photos; exit 4 if some could not be read."""
    require_photos(command.photos)
    from tintlab.serving.colorize_command import colorize

    return colorize(command, command.place, as_json=command.json, dry_run=command.dry_run)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["colorize", *sys.argv[1:]]))
