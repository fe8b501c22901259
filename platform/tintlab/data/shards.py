"""Lab shards, format version 2: photos in CIE Lab as Parquet files with a manifest.

    DATASET/
        manifest.json               Manifest: parameters, counts, and the hash of every other file
        shard-<16 digits>.parquet   SCHEMA: one row per photo, row groups of one split
        copies-<...>.parquet        photos that look like one of a later split: not used
        quarantine-<...>.parquet    what could not be stored, and why

`L` and `ab` are described in `shard_format/encoding.py`; everything else are plain columns. Photos
of a split are numbered in the order of the manifest's shards. Reading needs pyarrow and nothing
else.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int, Int64, UInt8

from tintlab.data.shard_format.copies import Copy, read_copies
from tintlab.data.shard_format.encoding import from_planes
from tintlab.data.shard_format.manifest import Manifest, ShardEntry
from tintlab.data.shard_format.mapped_pixels import mapped_file, mapped_pixels
from tintlab.data.shard_format.pixels import GroupPixels, LocalDisk, Memory
from tintlab.data.shard_format.shard_writer import SCHEMA
from tintlab.data.shard_format.split import SPLITS
from tintlab.data.storage import full_uri, hash_of, is_local, resolve
from tintlab.errors import ConfigError, IntegrityError

__all__ = ["SCHEMA", "Manifest", "Photo", "Shards", "open_shards", "verify"]

_REMEDY = "restore the file, or delete the folder and run tintlab prepare again"


@dataclass(frozen=True)
class Photo:
    """One photo of a data set."""

    id: str
    L: Float32[np.ndarray, "H W"]
    """Lightness in [0, 100]."""
    ab: Float32[np.ndarray, "2 H W"]
    """CIE a and b under D65."""


@dataclass(frozen=True)
class _RowGroup:
    """Where some photos of a split are."""

    shard: int
    row_group: int
    first: int
    """Index in the split of its first photo."""


@dataclass
class _Split:
    """Where each photo of a split is, and how large."""

    ids: list[str]
    sizes: Int[np.ndarray, "photos 2"]
    """Height and width."""
    chroma: Float32[np.ndarray, "photos"]
    """Mean chroma in CIE units."""
    copies: Int64[np.ndarray, "copies"]
    """Indices of the photos that look like one of a later split."""
    groups: list[_RowGroup]


class Shards:
    """A data set, open for reading by (split, index). Holds no file open, so it can be pickled."""

    def __init__(
        self,
        fs: fsspec.AbstractFileSystem,
        root: str,
        manifest: Manifest,
        disk: LocalDisk | None = None,
    ) -> None:
        self.manifest = manifest
        self._fs = fs
        self._root = root
        self._footers: list[pq.FileMetaData] = []
        self._memory = Memory()
        self._files: dict[int, UInt8[np.ndarray, "file"] | None] = {}
        self._disk = disk
        self._comparing = Lock()
        self._stamps = [self._stamp(entry.name) for entry in manifest.shards]
        self.copies: list[Copy] = read_copies(fs, root, manifest)
        """Photos that look like one of a later split, and what they are copies of."""
        self._splits = self._index()

    @property
    def uri(self) -> str:
        """Where the data set is."""
        return full_uri(self._fs, self._root)

    def count(self, split: str) -> int:
        """Photos in a split."""
        return len(self._of(split).ids)

    def ids(self, split: str, indices: Sequence[int] | None = None) -> list[str]:
        """Names of the photos of a split, in order, or of some of them."""
        ids = self._of(split).ids
        return list(ids) if indices is None else [ids[index] for index in indices]

    def sizes(self, split: str) -> Int[np.ndarray, "photos 2"]:
        """Height and width of the photos of a split, in order."""
        return self._of(split).sizes

    def chroma(self, split: str) -> Float32[np.ndarray, "photos"]:
        """Mean chroma in CIE units of the photos of a split, in order."""
        return self._of(split).chroma

    def near_grey(self, split: str) -> Int64[np.ndarray, "near_grey"]:
        """Indices of the photos of a split that are near-grey, in order."""
        return np.flatnonzero(self._of(split).chroma < np.float32(self.manifest.near_grey_chroma))

    def copies_in(self, split: str) -> Int64[np.ndarray, "copies"]:
        """Indices of the photos that look like one of a later split, in order; none in test."""
        return self._of(split).copies

    def used(self, split: str) -> Int64[np.ndarray, "used"]:
        """Indices of the photos that are no copies of one of a later split, in order."""
        of = self._of(split)
        return np.setdiff1d(np.arange(len(of.ids)), of.copies, assume_unique=True)

    def trainable(self, split: str) -> Int64[np.ndarray, "trainable"]:
        """Indices of the photos to train on, in order: those in use but the near-grey ones.

        Those would teach a model that grey is a likely colour for anything.
        """
        return np.setdiff1d(self.used(split), self.near_grey(split), assume_unique=True)

    def group_starts(self, split: str) -> Sequence[int]:
        """Index of the first photo of each run that is stored and read together."""
        return [group.first for group in self._of(split).groups]

    def photo(self, split: str, index: int) -> Photo:
        """One photo, whole.

        Raises: IntegrityError: the shard cannot be read any more.
        """
        planes = self.planes(split, index)
        return Photo(self._of(split).ids[index], *from_planes(*planes))

    def planes(
        self, split: str, index: int
    ) -> tuple[UInt8[np.ndarray, "2 H W"], UInt8[np.ndarray, "4 H W"]]:
        """The byte planes of one photo, L and ab, as `shard_format/encoding.py` describes them.

        Not copied and not to be changed: cutting a crop out of them costs no more than the crop.
        Raises: IntegrityError: the shard cannot be read any more.
        """
        of = self._of(split)
        if not 0 <= index < len(of.ids):
            raise IndexError(f"split {split} holds {len(of.ids)} photos, got index {index}")
        group = of.groups[bisect_right(of.groups, index, key=lambda group: group.first) - 1]
        pixels = self._memory.get(
            (group.shard, group.row_group), lambda: self._row_group(of, group)
        )
        height, width = (int(side) for side in of.sizes[index])
        return pixels.planes(index - group.first, height, width)

    def require_unchanged(self) -> None:
        """Compare the shards that are mapped with how they were opened; cheap, unless one was
        written to.

        Raises: IntegrityError: one is missing, or its bytes are no longer those of the manifest.
            OSError: the file system does not answer.
        """
        with self._comparing:
            for shard, mapped in list(self._files.items()):
                entry = self.manifest.shards[shard]
                stamp = self._stamp(entry.name)
                if mapped is None or stamp == self._stamps[shard]:
                    continue
                if problem := _problem(self._fs, f"{self._root}/{entry.name}", entry):
                    raise IntegrityError(f"{self.uri}/{problem}; {_REMEDY}")
                self._stamps[shard] = stamp

    def _stamp(self, name: str) -> tuple[int, int] | None:
        """Size and time of a shard; None where it is missing or remote."""
        try:
            found = Path(self._root, name).stat() if is_local(self._fs) else None
        except FileNotFoundError:
            return None
        return found and (found.st_size, found.st_mtime_ns)

    def source_hashes(self) -> set[str]:
        """SHA-256 of the files that the photos were made from."""
        return {name for rows in self.columns(["sha256"]) for name in rows["sha256"].to_pylist()}

    def columns(self, names: list[str]) -> Iterator[pa.Table]:
        """Some columns of every shard; photos of a split come in the order of their indices."""
        for shard in range(len(self.manifest.shards)):
            with self._open(shard) as file:
                try:
                    rows = file.read(names, use_threads=False)
                except (OSError, pa.ArrowInvalid) as error:
                    raise self._unreadable(shard, error) from None
            yield rows

    def _of(self, split: str) -> _Split:
        if split not in self._splits:
            raise ConfigError(f"there is no split {split!r}; use one of {', '.join(SPLITS)}")
        return self._splits[split]

    def _open(self, shard: int) -> pq.ParquetFile:
        """A shard, its footer read only once."""
        entry = self.manifest.shards[shard]
        path = f"{self._root}/{entry.name}"
        try:
            source = path if is_local(self._fs) else self._fs.open(path, "rb")
            if shard < len(self._footers):
                return pq.ParquetFile(source, metadata=self._footers[shard])
            if self._fs.size(path) != entry.bytes:
                raise IntegrityError(
                    f"{self.uri}/{entry.name} has {self._fs.size(path)} bytes and should have "
                    f"{entry.bytes}; {_REMEDY}"
                )
            return pq.ParquetFile(source)
        except FileNotFoundError:
            raise IntegrityError(f"{self.uri}/{entry.name} is missing; {_REMEDY}") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreadable(shard, error) from None

    def _unreadable(self, shard: int, error: Exception) -> IntegrityError:
        name = self.manifest.shards[shard].name
        return IntegrityError(
            f"{self.uri}/{name} cannot be read: {' '.join(str(error).split())}; {_REMEDY}"
        )

    def _index(self) -> dict[str, _Split]:
        """Read everything but the pixels of every shard."""
        ids: dict[str, list[str]] = {split: [] for split in SPLITS}
        sizes: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        chroma: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        groups: dict[str, list[_RowGroup]] = {split: [] for split in SPLITS}
        for shard in range(len(self.manifest.shards)):
            with self._open(shard) as file:
                self._footers.append(file.metadata)
                try:
                    columns = ["id", "split", "height", "width", "chroma"]
                    rows = file.read(columns, use_threads=False)
                except (OSError, pa.ArrowInvalid) as error:
                    raise self._unreadable(shard, error) from None
                lengths = [
                    file.metadata.row_group(group).num_rows
                    for group in range(file.metadata.num_row_groups)
                ]
            for group, (start, length) in enumerate(
                zip(accumulate(lengths, initial=0), lengths, strict=False)
            ):
                part = rows.slice(start, length)
                split = part["split"][0].as_py()
                groups[split].append(_RowGroup(shard, group, first=len(ids[split])))
                ids[split] += part["id"].to_pylist()
                sizes[split].append(
                    np.stack([part["height"].to_numpy(), part["width"].to_numpy()], axis=1)
                )
                chroma[split].append(part["chroma"].to_numpy())
        copies = {copy.id for copy in self.copies}
        found = {split: len(names) for split, names in ids.items()}
        if found != self.manifest.counts:
            raise IntegrityError(
                f"{self.uri} holds {found} photos and its manifest says {self.manifest.counts}; "
                f"{_REMEDY}"
            )
        no_sizes, no_chroma = np.zeros((0, 2), np.int32), np.zeros(0, np.float32)
        return {
            split: _Split(
                ids[split],
                np.concatenate([no_sizes, *sizes[split]]),
                np.concatenate([no_chroma, *chroma[split]]),
                np.flatnonzero([name in copies for name in ids[split]]),
                groups[split],
            )
            for split in SPLITS
        }

    def _row_group(self, of: _Split, group: _RowGroup) -> GroupPixels:
        """The pixels of a row group, mapped or kept on the local disk or read from the shard."""
        rows = self._footers[group.shard].row_group(group.row_group).num_rows
        areas = of.sizes[group.first : group.first + rows].astype(np.int64).prod(axis=1)
        starts = np.concatenate([[0], np.cumsum(areas)])  # (photos + 1,)
        entry = self.manifest.shards[group.shard]
        if is_local(self._fs):
            if group.shard not in self._files:  # two threads may map it: one is soon let go
                path = Path(self._root, entry.name)
                self._files[group.shard] = mapped_file(path, entry.bytes)
            content, footer = self._files[group.shard], self._footers[group.shard]
            if content is not None:
                mapped = mapped_pixels(content, footer, group.row_group, starts)
                if mapped:
                    return mapped
        shard = entry.sha256
        if self._disk:
            kept = self._disk.get(shard, group.row_group, starts[:-1], int(starts[-1]))
            if kept:
                return kept
        with self._open(group.shard) as file:
            try:
                table = file.read_row_group(group.row_group, ["L", "ab"], use_threads=False)
            except (OSError, pa.ArrowInvalid) as error:
                raise self._unreadable(group.shard, error) from None
        columns = []
        for name, bytes_per_px in (("L", 2), ("ab", 4)):
            _, offsets, values = table[name].combine_chunks().buffers()
            ends = np.frombuffer(offsets, np.int32)[: rows + 1]
            if not np.array_equal(ends, starts * bytes_per_px):
                wrong = ValueError(f"{name} does not have {bytes_per_px} bytes for every pixel")
                raise self._unreadable(group.shard, wrong)
            columns.append(np.frombuffer(values, np.uint8, int(ends[-1])))
        if self._disk and self._disk.put(shard, group.row_group, columns):
            kept = self._disk.get(shard, group.row_group, starts[:-1], int(starts[-1]))
            if kept:
                return kept
        # Copied, so that Arrow's memory is free for the next row group: it takes three times as
        # much while it decompresses, and the system's fresh pages cost more than zstd does.
        L, ab = (column.copy() for column in columns)
        return GroupPixels(L, ab, starts[:-1])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_memory": None, "_files": {}, "_comparing": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._comparing = Lock()
        self._memory = Memory()  # what was decompressed stays with the process that did it


def open_shards(uri: str, keep_pixels: Path | None = None) -> Shards:
    """Open a data set for reading.

    Args: keep_pixels: a folder on a local disk where the pixels of compressed or remote shards are
        kept between epochs.
    Raises: EnvironmentFault: there is none. IntegrityError: another version, or a shard is missing
        or has another size; hashes are checked by `verify`.
    """
    fs, root = resolve(uri)
    manifest = Manifest.read(fs, root)
    names = frozenset(shard.sha256 for shard in manifest.shards)
    return Shards(fs, root, manifest, LocalDisk(keep_pixels, names) if keep_pixels else None)


def verify(uri: str) -> list[str]:
    """What is wrong with a data set, one line each; reads and hashes every byte.

    Raises: EnvironmentFault, IntegrityError: the manifest itself cannot be used.
    """
    fs, root = resolve(uri)
    manifest = Manifest.read(fs, root)
    problems = [_problem(fs, f"{root}/{entry.name}", entry) for entry in manifest.files]
    return [problem for problem in problems if problem]


def _problem(fs: fsspec.AbstractFileSystem, path: str, entry: ShardEntry) -> str | None:
    try:
        if (size := fs.size(path)) != entry.bytes:
            return f"{entry.name} has {size} bytes and should have {entry.bytes}"
        if hash_of(fs, path) != entry.sha256:
            return f"{entry.name} is not what was written: its SHA-256 differs"
    except FileNotFoundError:
        return f"{entry.name} is missing"
    except OSError as error:
        return f"{entry.name} cannot be read: {error}"
    return None
