"""Lab shards, format version 1: photos in CIE Lab as Parquet files with a manifest.

    DATASET/
        manifest.json               Manifest: parameters, counts, and the hash of every other file
        shard-<16 digits>.parquet   SCHEMA: one row per photo, row groups of one split
        quarantine-<...>.parquet    what could not be stored, and why

`L` and `ab` are described in `tintlab.data.encoding`; everything else are plain columns. Photos of
a split are numbered in the order of the manifest's shards. Reading needs pyarrow and nothing else.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int

from tintlab.data.encoding import from_bytes
from tintlab.data.manifest import Manifest, ShardEntry
from tintlab.data.shard_writer import SCHEMA
from tintlab.data.split import SPLITS
from tintlab.data.storage import full_uri, hash_of, is_local, resolve
from tintlab.errors import ConfigError, IntegrityError

__all__ = ["SCHEMA", "Manifest", "Photo", "Shards", "open_shards", "verify"]

_REMEDY = "restore the file, or delete the folder and run tintlab prepare again"

CACHE_BYTES = 256 << 20
"""Decompressed pixels a reader keeps: twice the 32 row groups that are shuffled together."""


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
    groups: list[_RowGroup]


class Shards:
    """A data set, open for reading by (split, index). Holds no file open, so it can be pickled."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str, manifest: Manifest) -> None:
        self.manifest = manifest
        self._fs = fs
        self._root = root
        self._footers: list[pq.FileMetaData] = []
        self._cache: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._cached_bytes = 0
        self._splits = self._index()

    @property
    def uri(self) -> str:
        """Where the data set is."""
        return full_uri(self._fs, self._root)

    def count(self, split: str) -> int:
        """Photos in a split."""
        return len(self._of(split).ids)

    def ids(self, split: str) -> list[str]:
        """Names of the photos of a split, in order."""
        return list(self._of(split).ids)

    def sizes(self, split: str) -> Int[np.ndarray, "photos 2"]:
        """Height and width of the photos of a split, in order."""
        return self._of(split).sizes

    def group_starts(self, split: str) -> Sequence[int]:
        """Index of the first photo of each run that is stored and read together."""
        return [group.first for group in self._of(split).groups]

    def photo(self, split: str, index: int) -> Photo:
        """One photo, whole.

        Raises: IntegrityError: the shard cannot be read any more.
        """
        of = self._of(split)
        if not 0 <= index < len(of.ids):
            raise IndexError(f"split {split} holds {len(of.ids)} photos, got index {index}")
        group = of.groups[bisect_right(of.groups, index, key=lambda group: group.first) - 1]
        pixels = self._row_group(group)
        row = index - group.first
        height, width = (int(side) for side in of.sizes[index])
        L_bytes, ab_bytes = (memoryview(pixels[name][row].as_buffer()) for name in ("L", "ab"))
        L, ab = from_bytes(L_bytes, ab_bytes, height, width)
        return Photo(of.ids[index], L, ab)

    def source_hashes(self) -> set[str]:
        """SHA-256 of the files that the photos were made from."""
        hashes: set[str] = set()
        for shard in range(len(self.manifest.shards)):
            with self._open(shard) as file:
                hashes.update(file.read(["sha256"], use_threads=False)["sha256"].to_pylist())
        return hashes

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
        groups: dict[str, list[_RowGroup]] = {split: [] for split in SPLITS}
        for shard in range(len(self.manifest.shards)):
            with self._open(shard) as file:
                self._footers.append(file.metadata)
                try:
                    rows = file.read(["id", "split", "height", "width"], use_threads=False)
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
        found = {split: len(names) for split, names in ids.items()}
        if found != self.manifest.counts:
            raise IntegrityError(
                f"{self.uri} holds {found} photos and its manifest says {self.manifest.counts}; "
                f"{_REMEDY}"
            )
        empty = np.zeros((0, 2), np.int32)
        return {
            split: _Split(ids[split], np.concatenate([empty, *sizes[split]]), groups[split])
            for split in SPLITS
        }

    def _row_group(self, group: _RowGroup) -> pa.Table:
        """The pixels of a row group, from the cache or from the file."""
        key = (group.shard, group.row_group)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        with self._open(group.shard) as file:
            try:
                pixels = file.read_row_group(group.row_group, ["L", "ab"], use_threads=False)
            except (OSError, pa.ArrowInvalid) as error:
                raise self._unreadable(group.shard, error) from None
        self._cache[key] = pixels
        self._cached_bytes += pixels.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= dropped.nbytes
        return pixels

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}


def open_shards(uri: str) -> Shards:
    """Open a data set for reading.

    Raises: EnvironmentFault: there is none. IntegrityError: another version, or a shard is missing
        or has another size; hashes are checked by `verify`.
    """
    fs, root = resolve(uri)
    return Shards(fs, root, Manifest.read(fs, root))


def verify(uri: str) -> list[str]:
    """What is wrong with a data set, one line each; reads and hashes every byte.

    Raises: EnvironmentFault, IntegrityError: the manifest itself cannot be used.
    """
    fs, root = resolve(uri)
    manifest = Manifest.read(fs, root)
    table = manifest.quarantine.table
    entries = [*manifest.shards, *([table] if table else [])]
    problems = [_problem(fs, f"{root}/{entry.name}", entry) for entry in entries]
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
