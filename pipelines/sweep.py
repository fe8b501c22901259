"""sweep: a question (search space) -> ranked trials."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional

from tintlab.command import ExperimentCommand, base_experiment
from tintlab.config import ExperimentConfig
from tintlab.console import ProgressLine, Result


@dataclass(frozen=True)
class Command(ExperimentCommand):
    """Run the trials of a search space; the same command continues what was interrupted."""

    space: Positional[str]
    """Name of a file in search_spaces/, or the path of one."""
    num_trials: int | None = None
    """Trials in all; default the space's own number."""
    trials_at_once: int = 2
    """Trials that train at the same time, one core or GPU share each."""
    seed: int = 0
    """Seed of the search itself."""


def defaults(argv: Sequence[str]) -> Command:
    """What options not given mean: the space's fixed values."""
    from tintlab.sweep.question import load_space

    name = next((word for word in argv[:1] if word[0] != "-"), "")
    fixed = load_space(name).space.base() if name else ExperimentConfig()
    return Command(space=name, experiment=base_experiment(argv, fixed))


def main(command: Command) -> Result:
    """Run the sweep; exit 4 if some trials failed."""
    from tintlab.sweep.plan import plan
    from tintlab.sweep.question import load_space
    from tintlab.sweep.report import result_of

    question = load_space(command.space)
    question.check(command.experiment)
    trials, at_once = question.space.trials(command.num_trials), command.trials_at_once
    if command.dry_run:
        return plan(question, command.experiment, trials, at_once, command.shards_uri)
    from tintlab.cluster import connect
    from tintlab.sweep.run import SweepRequest, run_sweep

    name = command.name or question.name
    request = SweepRequest(question, command.experiment, name, trials, at_once, command.seed)
    with connect(command.place), ProgressLine() as line:
        return result_of(run_sweep(request, command.place, command.shards_uri, line.show), question)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["sweep", *sys.argv[1:]]))
