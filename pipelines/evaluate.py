"""evaluate: a model + the test split -> metrics with intervals; several models -> a comparison."""

import sys
from dataclasses import dataclass

from tyro.conf import Positional

from tintlab.command import StageCommand
from tintlab.console import ProgressLine, Result


@dataclass(frozen=True)
class Command(StageCommand):
    """Measure a model on photos it was not trained on; measured once, then remembered.

    With further models, compare the first with each of them on the same photos.
    """

    model: Positional[str] = "@champion"
    """@champion or another alias, a version number, a run id, or a model folder."""
    others: Positional[tuple[str, ...]] = ()
    """Models to compare it with, named in the same ways."""
    split: str = "test"
    """Split to measure on: test or val."""
    shards: str | None = None
    """Lab shards; default the workspace's own."""
    workers: int = 1
    """Workers that measure, a core each; with more than one, on Ray. No figure depends on it."""


def main(command: Command) -> Result:
    """Measure and print the figures, or the comparison."""
    from tintlab.data.shards import open_shards
    from tintlab.tracking.comparisons import compare_models
    from tintlab.tracking.evaluations import evaluate_model
    from tintlab.tracking.models import find_model

    place, uri, split = command.place, command.shards or command.place.shards, command.split
    data: dict[str, object] = {"data": open_shards(uri).manifest.fingerprint, "split": split}
    names = [command.model, *command.others]
    if command.others and not command.dry_run:
        with ProgressLine() as line:
            compared = compare_models(
                place, names, uri, split, workers=command.workers, show=line.show
            )
        return Result(compared.document(), compared.text())
    found = find_model(place, command.model, offline_ok=False)
    if command.dry_run:
        data |= {"model": found.label, "others": list(command.others)}
        return Result(data, f"{' and '.join(names)} would be measured on {split} of {uri}")
    with ProgressLine() as line:
        kept = evaluate_model(place, found, uri, split, workers=command.workers, show=line.show)
    text = f"{found.label} on {kept.summary['images']} photos of {split}\n{kept.text()}"
    return Result({**kept.summary, "model": found.label, "folder": str(kept.folder)}, text)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["evaluate", *sys.argv[1:]]))
