"""colorize: grey photos -> coloured photos, with a model of the registry."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from tintlab.command import StageCommand, require_photos
from tintlab.console import ProgressLine, Result


@dataclass(frozen=True)
class Command(StageCommand):
    """Colour photos; each keeps its size and its own lightness."""

    photos: Positional[tuple[Path, ...]] = ()
    """Photos, or folders of photos."""
    out: Path = Path("colored")
    """Folder for the coloured photos; no photo is written over another."""
    model: str = "@champion"
    """@champion or another alias, a version number, a run id, or a model folder."""
    short_side_px: int | None = None
    """Size of the copy the model looks at; default the crops it was trained on."""
    temperature: float | None = None
    """0 takes the likeliest bins; default the model's evaluation.temperature."""
    top_p: float = 1.0
    """Draw only from the likeliest bins that together reach this."""
    versions: int = 1
    """Pictures of each photo."""
    best_of: int = 1
    """Draw so many and paint the one that the model finds most likely."""
    seed: int = 0
    """Same seed, same picture."""


def main(command: Command) -> Result:
    """Colour the photos; exit 4 if some could not be read."""
    require_photos(command.photos)
    from tintlab.model.artifact import load_model
    from tintlab.serving.colorize import Drawing, colorize_files, find_photos
    from tintlab.tracking.models import find_model

    drawing = Drawing(command.temperature, command.top_p, command.versions, command.best_of).check()
    found = find_model(command.place, command.model)
    inputs = len(find_photos(command.photos, command.out))
    if command.dry_run:
        return Result({"inputs": inputs, "model": found.label}, f"{inputs} photos, {found.label}")
    model, config = load_model(found.folder)
    px, drawn = config.data.crop_px, drawing.at(config.evaluation.temperature)
    with ProgressLine() as line:
        how = (command.short_side_px or px, drawn, command.seed, line.show)
        report = colorize_files(model, command.photos, command.out, *how)
    return report.result(found.label, command.out)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["colorize", *sys.argv[1:]]))
