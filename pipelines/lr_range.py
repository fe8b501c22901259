"""lr-range: a short training with a rising learning rate -> a base and a peak learning rate."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tintlab.command import ExperimentCommand, base_experiment
from tintlab.config import ExperimentConfig, to_json
from tintlab.console import ProgressLine, Result


@dataclass(frozen=True)
class Command(ExperimentCommand):
    """Find the learning rates to train between: raise the rate until the training diverges."""

    min_lr: float = 1e-5
    """Learning rate of the first step."""
    max_lr: float = 1.0
    """Learning rate of the last step, if it gets there."""
    steps: int = 100
    """Steps of the test; training.steps does not matter."""
    out: str | None = None
    """File or URI for the picture; default reports/lr_range.png in the workspace."""
    name: str | None = None
    """Name of the run in MLflow; every test is a new run."""


def defaults(argv: Sequence[str]) -> Command:
    """What options not given mean."""
    return Command(experiment=base_experiment(argv, ExperimentConfig()))


def main(command: Command) -> Result:
    """Run the test; exit 4 if the loss did not fall."""
    from tintlab.training.lr_range import Rise

    config, place = command.experiment, command.place
    rise = Rise(command.min_lr, command.max_lr, command.steps)
    if command.dry_run:
        from tintlab.data.shards import open_shards

        fingerprint = open_shards(command.shards_uri).manifest.fingerprint
        data = {"rise": vars(rise), "config": config.model_dump(), "data_fingerprint": fingerprint}
        return Result(data, f"{to_json(config)}{rise}, data set {fingerprint}")
    from tintlab.training.fit import line_of
    from tintlab.training.lr_range_tracked import find_rates

    out = command.out or f"{place.reports}/lr_range.png"
    with ProgressLine() as line:
        how = (rise, command.name or "lr-range", out, lambda p: line.show(line_of(p)))
        return find_rates(config, place, command.shards_uri, *how).result()


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["lr-range", *sys.argv[1:]]))
