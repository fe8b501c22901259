"""Decompressed pixels of row groups: in memory for a while, and on a local disk between epochs.

Only of shards that are compressed or far away: others are mapped as they are (`mapped_pixels`).
Decompressing a photo costs ten times what cutting a crop out of it does. So what was decompressed
once may be kept in files that are mapped into memory: a crop then touches only its own pages, and
several processes on a machine share them.

    FOLDER/<host>-<boot id>/<SHA-256 of the shard>-<row group>    L of all its photos, then all ab

Pixels in a file are exactly the bytes of the shard's columns. A file is named by the content it is
made from, so it is never out of date; it has its name only when it is whole. It is not synced, as
that would be slower than making it again: a power cut may damage it, but then the boot id differs.
"""

import mmap
import os
import secrets
import shutil
import socket
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Int64, UInt8

MEMORY_BYTES = 256 << 20
"""Decompressed pixels a reader holds on to: twice the 32 row groups that are shuffled together."""

DISK_BYTES = 16 << 30
"""Decompressed pixels kept in a folder: 30,000 photos of 256 px."""

FREE_BYTES = 8 << 30
"""This much of a disk is left free, whatever DISK_BYTES says."""

RECOUNT_EVERY = 64
"""Files written between two looks at how much there is: a quarter of a gigabyte."""

BYTES_PER_PX = 6
"""Two for each of L, a and b."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class GroupPixels:
    """The pixels of the photos of one row group, each column as it is stored, end to end."""

    L: UInt8[np.ndarray, "L_bytes"]
    ab: UInt8[np.ndarray, "ab_bytes"]
    starts_px: Int64[np.ndarray, "photos"]
    """Pixels that come before each photo."""
    length_bytes: int = 0
    """Bytes that stand before each photo in both columns, and are no pixels."""
    of_file: bool = False
    """Whether they are part of a file that stays mapped: the system takes their memory back when
    it wants to."""

    def planes(
        self, row: int, height: int, width: int
    ) -> tuple[UInt8[np.ndarray, "2 H W"], UInt8[np.ndarray, "4 H W"]]:
        """The byte planes of one photo, not copied: high and low of L; high a, b, low a, b."""
        start, pixels = int(self.starts_px[row]), height * width
        skip = self.length_bytes * (row + 1)
        L = self.L[skip + 2 * start : skip + 2 * (start + pixels)]
        ab = self.ab[skip + 4 * start : skip + 4 * (start + pixels)]
        return L.reshape(2, height, width), ab.reshape(4, height, width)

    @property
    def held_bytes(self) -> int:
        """Memory that is free again when they are let go."""
        return 0 if self.of_file else self.L.nbytes + self.ab.nbytes


class Memory:
    """The row groups that were used last, safe to use from several threads."""

    def __init__(self, limit_bytes: int = MEMORY_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[tuple[int, int], GroupPixels] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        self._loading: dict[tuple[int, int], Lock] = {}

    def get(self, key: tuple[int, int], load: Callable[[], GroupPixels]) -> GroupPixels:
        """What is kept under a key, else what `load` gives; no two threads load the same."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            loading = self._loading.setdefault(key, Lock())
        with loading:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            pixels = load()
            with self._lock:
                self._loading.pop(key, None)
                self._kept[key] = pixels
                self._bytes += pixels.held_bytes
                while self._bytes > self._limit_bytes and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].held_bytes
            return pixels


class LocalDisk:
    """Row groups in files of a local folder, up to a limit; nothing is kept beyond it.

    Args: shards: SHA-256 of the shards that are read. Files of others make way when room is short.
    """

    def __init__(self, folder: Path, shards: frozenset[str], limit_bytes: int = DISK_BYTES) -> None:
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else "unknown"
        self._folder = folder / f"{socket.gethostname()}-{boot}"
        self._shards = shards
        self._limit_bytes = limit_bytes
        self._room_bytes = 0
        self._until_recount = 0

    def get(
        self, shard: str, row_group: int, starts_px: Int64[np.ndarray, "photos"], pixels: int
    ) -> GroupPixels | None:
        """A row group of that many pixels, mapped; None if it is not there."""
        try:
            with open(self._folder / f"{shard}-{row_group}", "rb") as file:
                if os.fstat(file.fileno()).st_size != BYTES_PER_PX * pixels:
                    return None
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError:
            return None
        L, ab = np.split(np.frombuffer(mapped, np.uint8), [2 * pixels])
        return GroupPixels(L, ab, starts_px)

    def put(self, shard: str, row_group: int, columns: Sequence[UInt8[np.ndarray, "_"]]) -> bool:
        """Keep a row group, its L and its ab, if there is room; returns whether it is kept.

        A disk that refuses is a warning, not an error.
        """
        if self._until_recount <= 0:
            self._recount()
        self._until_recount -= 1
        size = sum(column.nbytes for column in columns)
        if size > self._room_bytes:
            return False
        self._room_bytes -= size
        temporary = self._folder / f".tmp-{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                for column in columns:
                    file.write(column.data)
            os.replace(temporary, self._folder / f"{shard}-{row_group}")
            return True
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._limit_bytes = self._room_bytes = 0
            warnings.warn(
                f"pixels are not kept in {self._folder}, so later epochs are slower: {error}",
                stacklevel=2,
            )
            return False

    def _recount(self) -> None:
        """How much may still be written, after what nobody needs any more is gone."""
        self._until_recount = RECOUNT_EVERY
        for old in self._folder.parent.glob(f"{socket.gethostname()}-*"):
            if old != self._folder:  # of an earlier boot
                shutil.rmtree(old, ignore_errors=True)
        ours = others = 0
        foreign = []
        for file in self._folder.glob("*-*"):
            with suppress(FileNotFoundError):  # another process may tidy up as well
                size = file.stat().st_size
                if file.name.rsplit("-", 1)[0] in self._shards:
                    ours += size
                else:
                    others += size
                    foreign.append(file)
        if ours + others > self._limit_bytes / 2:
            for file in foreign:
                file.unlink(missing_ok=True)
            others = 0
        existing = next(path for path in (self._folder, *self._folder.parents) if path.exists())
        spare = shutil.disk_usage(existing).free - FREE_BYTES
        self._room_bytes = max(min(self._limit_bytes - ours - others, spare), 0)
