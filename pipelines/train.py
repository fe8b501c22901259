"""train: Lab shards -> one tracked run with checkpoints and a model."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tintlab.command import ExperimentCommand, base_experiment
from tintlab.config import ExperimentConfig, to_json
from tintlab.console import ProgressLine, Result, table


@dataclass(frozen=True)
class Command(ExperimentCommand):
    """Train one colorizer; the same command continues what was interrupted."""


def defaults(argv: Sequence[str]) -> Command:
    """What options not given mean."""
    return Command(experiment=base_experiment(argv, ExperimentConfig()))


def main(command: Command) -> Result:
    """Train to the last step."""
    if command.dry_run:
        return planned(command)
    from tintlab.training.ownership import preflight

    name = command.name or "train"
    preflight(command.place, f"train/{name}")  # before imports and Ray, which take seconds
    from tintlab.cluster import connect
    from tintlab.training.fit import fit, line_of
    from tintlab.training.request import RunRequest

    with connect(command.place), ProgressLine() as line:
        outcome = fit(
            command.experiment,
            *(command.place, command.shards_uri, RunRequest("train", name, f"train/{name}")),
            on_progress=lambda progress: line.show(line_of(progress)),
            on_notice=lambda text: line.show(text, final=True),
        )
    rows = sorted(outcome.metrics.items())
    text = f"run {outcome.run_id}, {outcome.steps} steps\n{table(['metric', 'value'], rows)}"
    return Result(asdict(outcome), f"{text}\n\ntintlab {outcome.next_step}")


def planned(command: Command) -> Result:
    """What it would take, from a few steps that are thrown away."""
    from tintlab.data.shards import open_shards
    from tintlab.training.probe import probe

    config, shards = command.experiment, open_shards(command.shards_uri)
    estimate = probe(config, shards)
    data = {"config": config.model_dump(), "data_fingerprint": shards.manifest.fingerprint}
    return Result(data | asdict(estimate), f"{to_json(config)}{estimate.text}")


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["train", *sys.argv[1:]]))
