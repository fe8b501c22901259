"""spaces: the questions that a sweep can ask."""

import sys
from dataclasses import dataclass

from tintlab.command import StageCommand
from tintlab.console import Result, table


@dataclass(frozen=True)
class Command(StageCommand):
    """List the search spaces that come with tintlab; `sweep` takes files of your own as well."""


def main(command: Command) -> Result:
    """Each with its question, its trials and what it searches."""
    from tintlab.sweep.space import load_space, space_names

    questions = [load_space(name) for name in space_names()]
    data = [
        {
            "name": question.name,
            "question": question.text,
            "trials": question.space.trials(),
            "searched": list(question.space.choices),
        }
        for question in questions
    ]
    rows = [[row["name"], row["trials"], row["question"]] for row in data]
    listing = table(["space", "trials", "question"], rows)
    return Result({"spaces": data}, f"{listing}\n\nnext: tintlab sweep SPACE --dry-run")


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["spaces", *sys.argv[1:]]))
