"""Names of coloured photos, chosen so that no photo is ever written over another.

A picture says which source it was made from, see `picture_file`; only that source's replaces it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tintlab.serving.given_photos import Given
from tintlab.serving.picture_file import source_id, stamp_of

LONGEST_STEM_BYTES = 200
"""Leaves room for `_64-1000000.webp` within the 255 bytes that file systems allow for a name, and
for what is put around it while it is being written."""


class OutputNames:
    """Names for pictures: `<stem>.png`, numbered where another photo has that name already.

    Names that differ in case only count as equal, since some file systems make them one file.
    """

    def __init__(
        self, out: Path, given: Sequence[Given], suffix: str, reserved: Sequence[str] = ()
    ) -> None:
        self._out, self._suffix = out, suffix
        self._owners: dict[Path, str | None] = {}
        self._taken = {(".", name.casefold()) for name in reserved}
        root = os.path.realpath(out)
        for photo in given:  # a source that lies in `out` is never written over
            folder, name = os.path.split(os.path.realpath(photo.file))
            if f"{folder}/".startswith(f"{root}/"):
                self._taken.add((os.path.relpath(folder, root), name.casefold()))

    def take(self, photo: Given, sample: int | None = None) -> Path:
        """The name for a photo's picture, or one of its samples; no later call gives it again."""
        stem = os.fsencode(photo.file.stem)[:LONGEST_STEM_BYTES]
        base = stem.decode("utf-8", "ignore") or "photo"
        base += f"_{sample}" if sample else ""
        owner = source_id(photo.file)
        number = 1
        while True:
            name = f"{base}{self._suffix}" if number == 1 else f"{base}-{number}{self._suffix}"
            key = (str(photo.folder), name.casefold())
            target = self._out / photo.folder / name
            # Nothing is lost by writing where nothing is, or where this source's picture is.
            if key not in self._taken and self._free(target, owner):
                self._taken.add(key)
                return target
            number += 1

    def _free(self, target: Path, owner: str) -> bool:
        if target not in self._owners:  # each file is looked into once
            stamp = stamp_of(target) if os.path.lexists(target) else None
            self._owners[target] = stamp.source if stamp else None
        return self._owners[target] == owner or not os.path.lexists(target)
