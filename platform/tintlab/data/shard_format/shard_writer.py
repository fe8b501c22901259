"""Rows -> one Parquet file that carries its own summary, so that it need never be made twice."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from tintlab.data.prepare_config import Compression
from tintlab.data.shard_format.ab_statistics import AbStatistics, merged
from tintlab.data.shard_format.manifest import ShardEntry, Size
from tintlab.data.shard_format.rows import Row
from tintlab.data.shard_format.split import SPLITS
from tintlab.data.storage import HashedFile, hash_of
from tintlab.settings import Settings

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("phash", pa.string()),
        ("coarse_grey", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("chroma", pa.float32()),
        ("notes", pa.string()),
        ("L", pa.binary()),
        ("ab", pa.binary()),
    ]
)
"""Columns of a shard: plain types that any Parquet reader opens."""

ROW_GROUP_BYTES = 4 << 20
"""Pixels per row group, before compression: what one random read costs, and what a writer holds."""

COMPRESSION_LEVEL = 1
"""Of zstd. Level 3 takes a third more time for 2 % less: measured on photos of 256 px."""

PAGE_BYTES = 1 << 30
"""More than a row group has, so that a column of one is one page: see `mapped_pixels`."""

_SUMMARY_KEY = b"tintlab.summary"


class Refused(Settings):
    """One photo of a shard's share that could not be stored."""

    sha256: str
    reason: str
    message: str


class ShardSummary(Settings):
    """What a shard tells about itself without its pixels."""

    key: str
    """Of the parameters and photos it was made from."""
    counts: dict[str, int]
    """Photos by split."""
    smallest: dict[str, Size]
    """By split, for those that hold a photo."""
    largest: dict[str, Size]
    """By split, for those that hold a photo."""
    near_grey: dict[str, int]
    """Near-grey photos by split."""
    notes: dict[str, int]
    """What decoding had to do to some photos, and to how many."""
    ab: AbStatistics
    """Of the train photos that are not near-grey."""
    refused: list[Refused]
    """Photos that were meant for this shard and are in quarantine."""


class ShardWriter:
    """Writes rows as they come, a few megabytes at a time; every row group is of one split.

    Args: near_grey_chroma: photos with less mean chroma are counted as near-grey. compression: of
        the pixels; the other columns are always compressed.
    """

    def __init__(
        self,
        file: HashedFile,
        key: str,
        near_grey_chroma: float = 0.0,
        compression: Compression = "none",
    ) -> None:
        self._key = key
        self._near_grey_chroma = near_grey_chroma
        others = [name for name in SCHEMA.names if name not in ("L", "ab")]
        self._writer = pq.ParquetWriter(
            file,
            SCHEMA,
            compression=dict.fromkeys(others, "zstd") | dict.fromkeys(("L", "ab"), compression),
            compression_level={
                name: COMPRESSION_LEVEL
                for name in SCHEMA.names
                if name in others or compression == "zstd"
            },
            data_page_size=PAGE_BYTES,
            use_dictionary=False,
            write_statistics=others,
        )
        self._pending: dict[str, list[Row]] = {split: [] for split in SPLITS}
        self._counts: Counter[str] = Counter()
        self._near_grey: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._smallest: dict[str, Size] = {}
        self._largest: dict[str, Size] = {}
        self._ab = merged([])
        self._colors: list[AbStatistics] = []
        self._refused: list[Refused] = []

    def add(self, row: Row) -> None:
        """Store one photo."""
        split = row.split
        self._counts[split] += 1
        size = Size(height=row.height, width=row.width)
        for known, extreme in ((self._smallest, min), (self._largest, max)):
            known[split] = combined([known.get(split, size), size], extreme)
        near_grey = bool(np.float32(row.chroma) < np.float32(self._near_grey_chroma))
        self._near_grey[split] += near_grey
        self._notes.update(filter(None, row.notes.split(",")))
        if split == "train" and not near_grey:
            self._colors.append(row.colors)
        pending = self._pending[split]
        pending.append(row)
        if sum(len(waiting.L) + len(waiting.ab) for waiting in pending) >= ROW_GROUP_BYTES:
            self._flush(split)

    def refuse(self, sha256: str, reason: str, message: str) -> None:
        """Remember one photo that cannot be stored."""
        self._refused.append(Refused(sha256=sha256, reason=reason, message=message))

    def finish(self) -> ShardSummary:
        """Write what is left, and the summary."""
        for split in SPLITS:
            self._flush(split)
        summary = ShardSummary(
            key=self._key,
            counts={split: self._counts[split] for split in SPLITS},
            smallest=self._smallest,
            largest=self._largest,
            near_grey={split: self._near_grey[split] for split in SPLITS},
            notes=dict(sorted(self._notes.items())),
            ab=self._ab,
            refused=self._refused,
        )
        self._writer.add_key_value_metadata({_SUMMARY_KEY: summary.model_dump_json().encode()})
        self._writer.close()
        return summary

    def _flush(self, split: str) -> None:
        self._ab = merged([self._ab, *self._colors])
        self._colors.clear()
        rows = self._pending[split]
        if not rows:
            return
        columns = [_column([getattr(row, field.name) for row in rows], field) for field in SCHEMA]
        self._writer.write_batch(pa.record_batch(columns, SCHEMA), row_group_size=len(rows))
        rows.clear()


def _column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """Values as Arrow holds them; `pa.array` would first import pandas, in each worker."""
    if pa.types.is_primitive(field.type):
        buffer = np.array(values, np.float32 if pa.types.is_floating(field.type) else np.int32)
        return pa.Array.from_buffers(field.type, len(values), [None, pa.py_buffer(buffer)])
    data = [value.encode() if isinstance(value, str) else value for value in values]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(data))]
    return pa.Array.from_buffers(field.type, len(values), buffers)


def combined(sizes: Sequence[Size], extreme: Callable[[Iterable[int]], int]) -> Size:
    """The extreme height and width of some sizes; `extreme` is min or max."""
    return Size(
        height=extreme(size.height for size in sizes), width=extreme(size.width for size in sizes)
    )


def finished_shard(
    fs: fsspec.AbstractFileSystem, path: str, key: str
) -> tuple[ShardEntry, ShardSummary] | None:
    """A shard that an earlier run finished, if it is whole and made from the same photos."""
    try:
        with fs.open(path, "rb") as stream:
            metadata = pq.read_metadata(stream)
        summary = ShardSummary.model_validate_json(metadata.metadata[_SUMMARY_KEY])
    except (FileNotFoundError, pa.ArrowInvalid, KeyError, TypeError, ValidationError):
        return None  # not there, cut short or not ours: it is made again
    if summary.key != key:
        return None
    return entry_of(fs, path, metadata.num_rows), summary


def entry_of(fs: fsspec.AbstractFileSystem, path: str, rows: int) -> ShardEntry:
    """What a manifest says about a file that is in place."""
    name = path.rsplit("/", 1)[1]
    return ShardEntry(name=name, rows=rows, sha256=hash_of(fs, path), bytes=fs.size(path))
