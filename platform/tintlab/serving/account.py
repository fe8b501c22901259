"""What became of every photo of a call: for people, as JSON, and as a sheet of small pictures."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tintlab.console import Result
from tintlab.data.sources.listing import printable
from tintlab.serving.painter import Outcome, write
from tintlab.serving.picture_file import PictureFormat, Stamp, encoded, recipe_of, stamp_of

REPORT = "report.json"
SHEET = "contact_sheet.png"
SHEET_PICTURES, SHEET_COLUMNS = 24, 6
MADE_BY = "tintlab colorize"
NAMED = 20
"""Photos in quarantine that a person is told of, one a line; the report has all of them."""


_NO_SOURCE = "0" * 64


@dataclass(frozen=True)
class Quarantined:
    """A source that could not be coloured, and why."""

    source: Path
    reason: str
    """A key of `decoding.reasons.REASONS`."""
    message: str

    @property
    def line(self) -> str:
        return f"{printable(str(self.source))}: {self.reason}: {self.message}"


@dataclass(frozen=True)
class ColorizeReport:
    """What became of every input: inputs = colored + len(quarantined)."""

    inputs: int
    colored: int
    """Photos of which every picture is there."""
    quarantined: list[Quarantined]
    outputs: list[Path]
    """One for each sample of each coloured photo, in the order of the inputs."""
    sources: list[Path] = field(default_factory=list)
    """What each of `outputs` was made from."""
    done_before: int = 0
    """Of `colored`, those whose pictures an earlier call had made."""
    pixels: int = 0
    """Of the pictures made by this call."""
    reduced_pixels: int = 0
    """Pixels whose sampled colour no screen can show at their lightness; painted less chromatic."""
    notes: tuple[str, ...] = ()
    """What a person might not expect, each once."""

    def data(self, model: str) -> dict[str, Any]:
        """The JSON document."""
        return {
            "made_by": MADE_BY,
            "model": model,
            "inputs": self.inputs,
            "colored": self.colored,
            "done_before": self.done_before,
            "quarantined": [
                {"source": printable(str(q.source)), "reason": q.reason, "message": q.message}
                for q in self.quarantined
            ],
            "outputs": [printable(str(path)) for path in self.outputs],
            "sources": [printable(str(path)) for path in self.sources],
            "reduced_share": self.reduced_pixels / max(1, self.pixels),
            "notes": list(self.notes),
        }

    def result(self, model: str, out: Path) -> Result:
        """What the command says; exit code 4 if a photo could not be read."""
        before = f", {self.done_before} of them before" if self.done_before else ""
        where = printable(str(out))
        lines = [f"{self.colored} of {self.inputs} photos coloured by {model}{before}, in {where}"]
        lines += self.notes
        lines += [f"quarantined {one.line}" for one in self.quarantined[:NAMED]]
        if len(self.quarantined) > NAMED:
            lines.append(f"and {len(self.quarantined) - NAMED} more, see {where}/{REPORT}")
        code = 4 if self.quarantined else 0
        return Result(self.data(model), "\n".join(lines), exit_code=code)


def notes_on(outcomes: list[Outcome]) -> tuple[str, ...]:
    """What is to be said once about photos that were coloured just now."""
    said = {
        "coloured": "had colours before; only the lightness was used",
        "ours": "tintlab had coloured before; only the lightness was used",
        "flattened": "had transparency, which JPEG cannot hold: shown on white",
        "exif_lost": "had EXIF that cannot be read or is too long: left out",
    }
    counts = {name: sum(getattr(outcome, name) for outcome in outcomes) for name in said}
    return tuple(
        f"{count} photo{'s' if count > 1 else ''} that {said[name]}"
        for name, count in counts.items()
        if count
    )


def keep(report: ColorizeReport, model: str, out: Path) -> None:
    """Write the report and the contact sheet of a call into its folder.

    They are written over nothing but an earlier call's.

    Raises: EnvironmentFault: they cannot be written.
    """
    content = json.dumps(report.data(model), indent=1) + "\n"
    write(_own(out / REPORT, _is_report), content.encode())
    if len(report.outputs) > 1:
        stamp = Stamp(_NO_SOURCE, recipe_of({"sheet": True}))  # so that it is taken for no photo
        sheet = contact_sheet(report.outputs)
        write(_own(out / SHEET, _is_sheet), encoded(PictureFormat(), sheet, None, stamp))


def _own(file: Path, is_ours: Callable[[Path], bool]) -> Path:
    """The file, or one beside it where somebody else's has its name."""
    found, number = file, 1
    while os.path.lexists(found) and not is_ours(found):
        number += 1
        found = file.with_name(f"{file.stem}-{number}{file.suffix}")
    return found


def _is_report(file: Path) -> bool:
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("made_by") == MADE_BY


def _is_sheet(file: Path) -> bool:
    stamp = stamp_of(file)
    return stamp is not None and stamp.source == _NO_SOURCE


def contact_sheet(pictures: list[Path]) -> np.ndarray:
    """Some of the pictures, spread evenly over all of them, small and in rows."""
    from tintlab.data.contact_sheet import GAP_PX, THUMBNAIL_PX, WHITE, evenly

    shown = [pictures[index] for index in evenly(len(pictures), SHEET_PICTURES)]
    pitch = THUMBNAIL_PX + GAP_PX
    rows = math.ceil(len(shown) / SHEET_COLUMNS)
    columns = min(len(shown), SHEET_COLUMNS)
    sheet = Image.new("RGB", (columns * pitch + GAP_PX, rows * pitch + GAP_PX), WHITE)
    for place, file in enumerate(shown):
        with Image.open(file) as image:
            image.draft("RGB", (THUMBNAIL_PX, THUMBNAIL_PX))  # of a large JPEG, less is decoded
            image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            small = image.convert("RGBA")
        row, column = divmod(place, SHEET_COLUMNS)
        x = GAP_PX + column * pitch + (THUMBNAIL_PX - small.width) // 2
        y = GAP_PX + row * pitch + (THUMBNAIL_PX - small.height) // 2
        sheet.paste(small, (x, y), small)
    return np.asarray(sheet)
