"""sweep: a question (search space) -> ranked trials."""

import sys
from dataclasses import dataclass, field

from tyro.conf import Positional

from tintlab.command import ExperimentCommand, base_experiment
from tintlab.console import Result, option
from tintlab.settings import SweepConfig


@dataclass(frozen=True)
class Command(ExperimentCommand):
    """Run the trials of a search space; the same command continues what was interrupted."""

    space: Positional[str] = ""
    """Name of a file in search_spaces/, or the path of one."""
    resume: str | None = None
    """Continue the sweep of this name; all that it needs is in its record."""
    accept_changes: bool = False
    """Continue although space, settings, photos or code changed; the report says so."""
    num_trials: int | None = None
    """Trials in all; default the space's own number."""
    trials_at_once: int = 2
    """Trials that train at the same time, one core or GPU share each."""
    seed: int = 0
    """Seed of the search itself."""
    sweep: SweepConfig = field(default_factory=SweepConfig)


def defaults(argv: list[str]) -> Command:
    """What options not given mean: the space's fixed values, or what a sweep was started with."""
    from tintlab.sweep import opening, question

    if option(argv, "--resume"):
        return Command(**opening.resumed(argv))
    name, base, own = question.named(argv)
    return Command(space=name, experiment=base_experiment(argv, base, own))


def main(command: Command) -> Result:
    """Run the sweep; exit 4 if some trials failed, 8 if a budget ended it."""
    from tintlab.sweep import live, opening, plan

    request, place = opening.request_of(command), command.place
    if command.dry_run:
        return plan.plan(*request.planned)
    with opening.opened(request, place) as sweep, live.LiveSweep() as shown:
        from tintlab.sweep import run, summary

        return summary.result_of(*run.run_sweep(sweep, place, shown.show, shown.notice), place)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["sweep", *sys.argv[1:]]))
