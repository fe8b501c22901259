"""colorize: grey photos -> coloured photos, with a model of the registry."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from tintlab.command import StageCommand
from tintlab.console import ProgressLine, Result
from tintlab.errors import ConfigError


@dataclass(frozen=True)
class Command(StageCommand):
    """Colour photos; each keeps its size and its own lightness."""

    photos: Positional[tuple[Path, ...]] = ()
    """Photos, or folders of photos."""
    out: Path = Path("colored")
    """Folder for the coloured photos; nothing in it is written over by another photo."""
    model: str = "@champion"
    """@champion or another alias, a version number, a run id, or a model folder."""
    short_side_px: int | None = None
    """Size of the small copy the model looks at; default the crops it was trained on."""
    temperature: float | None = None
    """0 takes the likeliest bins; default the model's evaluation.temperature."""
    seed: int = 0
    """Same seed, same picture."""


def main(command: Command) -> Result:
    """Colour the photos; exit 4 if some could not be read."""
    if not command.photos:
        raise ConfigError("no photos given; tintlab colorize PHOTO... --out DIR")
    from tintlab.model.artifact import load_model
    from tintlab.serving.colorize import colorize_files, find_photos
    from tintlab.tracking.models import find_model

    inputs = find_photos(command.photos, command.out)
    found = find_model(command.place, command.model)
    if command.dry_run:
        plan = {"inputs": len(inputs), "model": found.label, "out": str(command.out)}
        return Result(plan, f"{len(inputs)} photos would be coloured by {found.label}")
    model, config = load_model(found.folder)
    line = ProgressLine()
    report = colorize_files(
        model,
        command.photos,
        command.out,
        short_side_px=command.short_side_px or config.data.crop_px,
        temperature=(
            config.evaluation.temperature if command.temperature is None else command.temperature
        ),
        seed=command.seed,
        progress=lambda done, total: line.show(f"{done}/{total} photos", final=done == total),
    )
    return report.result(found.label, command.out)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["colorize", *sys.argv[1:]]))
