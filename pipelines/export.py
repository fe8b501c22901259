"""export: a model -> torch.export programs of its encoder and its upsampler."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from tintlab.command import StageCommand
from tintlab.console import Result, say, table


@dataclass(frozen=True)
class Command(StageCommand):
    """Write the parts of a model that are one forward pass as programs that need no tintlab.

    encoder.pt2 and upsampler.pt2, which torch.export.load reads. The decoder is not among them: it
    is called once for every colour.
    """

    model: Positional[str] = "@champion"
    """@champion or another alias, a version number, a run id, or a model folder."""
    out: Path = Path("exported")
    """Folder to write to; programs that are there are replaced."""


def main(command: Command) -> Result:
    """Write both programs; they were read back and compared with the model first."""
    from tintlab.data.storage import require_writable
    from tintlab.model.artifact import load_model
    from tintlab.tracking.models import find_model

    found = find_model(command.place, command.model)
    if found.cached:
        say(found.cached)
    if command.dry_run:
        text = f"programs of {found.label} would be written to {command.out}"
        return Result({"model": found.label, "out": str(command.out)}, text)
    require_writable(str(command.out))
    model, _ = load_model(found.folder)
    from tintlab.model.export import export_model

    differences = export_model(model, command.out)
    rows = [[str(command.out / name), f"{worst:.1g}"] for name, worst in differences.items()]
    data = {"model": found.label, "out": str(command.out), "differences": differences}
    return Result(data, f"{found.label}\n{table(['program', 'largest difference'], rows)}")


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["export", *sys.argv[1:]]))
