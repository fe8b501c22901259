"""Which photos are meant: files, folders and globs of this machine's file systems."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tintlab.data.sources.listing import printable
from tintlab.errors import EnvironmentFault
from tintlab.serving.picture_file import stamp_of

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
"""What is taken from a folder; a file that is named, or matches a glob, is always tried."""


class Given(NamedTuple):
    """One photo to colour."""

    file: Path
    """As the user wrote it, or below the folder that the user wrote."""
    folder: Path
    """Where its picture goes, below --out: where it lies below the folder that was given."""


def find_photos(sources: Sequence[Path], out: Path | None) -> list[Given]:
    """Every file of the sources once, folders searched to the bottom, in a stable order.

    From folders, hidden files and what an earlier call wrote into `out` are left out.

    Raises: EnvironmentFault: a source does not exist, or there is no photo in any.
    """
    found: dict[str, Given] = {}  # by the file that it is in the end
    for source in sources:
        for given in _of(source, out):
            found.setdefault(os.path.realpath(given.file), given)
    if not found:
        looked = ", ".join(printable(str(source)) for source in sources)
        raise EnvironmentFault(
            f"no photo found in {looked or 'no sources'}; "
            f"looked for {' '.join(sorted(PHOTO_SUFFIXES))}"
        )
    return list(found.values())


def _of(source: Path, out: Path | None) -> Iterator[Given]:
    if os.path.lexists(source):
        matches = [source]
    else:
        matches = [Path(match) for match in sorted(glob.glob(str(source), recursive=True))]
        if not matches:
            what = "match for" if glob.has_magic(str(source)) else "file or folder:"
            raise EnvironmentFault(f"no such {what} {printable(str(source))}; check the path")
    for match in matches:
        if match.is_dir():
            for file in sorted(_photos_below(match, out)):
                yield Given(file, file.parent.relative_to(match))
        else:
            yield Given(match, Path())


def _photos_below(folder: Path, out: Path | None) -> Iterator[Path]:
    written = None if out is None else os.path.realpath(out)
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = os.path.realpath(parent)
        in_out = written is not None and f"{here}/".startswith(f"{written}/")
        for name in files:
            file = Path(parent, name)
            if name.startswith(".") or file.suffix.lower() not in PHOTO_SUFFIXES:
                continue
            if not (in_out and stamp_of(file)):
                yield file
