"""spaces: the questions that a sweep can ask."""

import sys
from dataclasses import dataclass

from tintlab.command import StageCommand
from tintlab.console import Result


@dataclass(frozen=True)
class Command(StageCommand):
    """List the search spaces that come with tintlab; `sweep` takes files of your own as well."""


def main(command: Command) -> Result:
    """Each with its question, its runs and what it searches."""
    from tintlab.sweep.plan import listed
    from tintlab.sweep.question import load_space, space_names

    return listed([load_space(name) for name in space_names()])


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["spaces", *sys.argv[1:]]))
