"""Names of coloured photos, chosen so that no photo is ever written over another.

An output says which source it was made from, in a PNG text; only that source's output replaces it.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

SOURCE_KEY = "tintlab-source"
"""PNG text by which an output knows its own source again, so that only that one replaces it."""
LONGEST_STEM_BYTES = 200
"""Leaves room for `_4-2.png` within the 255 bytes that file systems allow for a name."""


def made_from(output: Path) -> str | None:
    """The identity of the source an output of ours was made from; None for any other file."""
    try:
        with Image.open(output) as image:
            found = image.info.get(SOURCE_KEY)
    except (OSError, ValueError, Image.DecompressionBombError):  # not a picture, or none of ours
        return None
    return found if isinstance(found, str) else None


def source_id(source: Path) -> str:
    """Which source an output was made from, without telling anybody the path."""
    return hashlib.sha256(str(source.resolve()).encode("utf-8", "surrogateescape")).hexdigest()


class OutputNames:
    """Names for outputs: `<stem>.png`, numbered where another photo has that name already.

    Names that differ in case only count as equal, since some file systems make them one file.
    """

    def __init__(self, out: Path, inputs: Sequence[Path]) -> None:
        self._out = out
        self._taken: set[str] = set()
        folder = out.resolve()
        for source in inputs:  # a source that lies in `out` is never written over
            if source.resolve().parent == folder:
                self._taken.add(source.name.casefold())

    def take(self, source: Path, version: int | None = None) -> Path:
        """The name for a source's output, or for one version; no later call gives it again."""
        stem = source.stem.encode("utf-8", "surrogateescape")[:LONGEST_STEM_BYTES]
        base = stem.decode("utf-8", "ignore") or "photo"
        base += f"_{version}" if version else ""
        number = 1
        while True:
            name = f"{base}.png" if number == 1 else f"{base}-{number}.png"
            target = self._out / name
            # Nothing is lost by writing where nothing is, or where this source's output is.
            free = not os.path.lexists(target) or made_from(target) == source_id(source)
            if free and name.casefold() not in self._taken:
                self._taken.add(name.casefold())
                return target
            number += 1
