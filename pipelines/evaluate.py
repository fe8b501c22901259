"""evaluate: a model + the test split -> metrics, per photo and summarised."""

import sys
from dataclasses import dataclass

from tyro.conf import Positional

from tintlab.command import StageCommand
from tintlab.console import Result, table


@dataclass(frozen=True)
class Command(StageCommand):
    """Measure a model on photos it was not trained on; measured once, then remembered."""

    model: Positional[str] = "@champion"
    """@champion or another alias, a version number, a run id, or a model folder."""
    split: str = "test"
    """Split to measure on: test or val."""
    shards: str | None = None
    """Lab shards; default the workspace's own."""


def main(command: Command) -> Result:
    """Measure, and print the ladder and the figures."""
    from tintlab.data.shards import open_shards
    from tintlab.tracking.evaluations import evaluate_model
    from tintlab.tracking.models import find_model

    place = command.place
    uri = command.shards or place.shards
    manifest = open_shards(uri).manifest
    found = find_model(place, command.model)
    if command.dry_run:
        data = {"model": found.label, "data": manifest.fingerprint, "split": command.split}
        return Result(data, f"{found.label} would be measured on {command.split} of {uri}")
    kept = evaluate_model(place, found, uri, command.split)
    rows = [[f"bits/dim {rung}", value] for rung, value in kept.summary["bits_per_dim"].items()]
    rows += [[name, kept.summary[name]] for name in ("psnr_db", "ssim", "colorfulness_ratio")]
    text = (
        f"{found.label} on {kept.summary['images']} photos of {command.split}\n"
        f"{table(['measure', 'value'], rows)}\n{kept.folder}"
    )
    return Result({**kept.summary, "model": found.label, "folder": str(kept.folder)}, text)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["evaluate", *sys.argv[1:]]))
