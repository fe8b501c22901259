"""Parquet files with a column of image bytes: plain binary, or the struct {bytes, path}."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tintlab.data.decoding.images import Undecodable

NAMES = frozenset(
    (
        *("image", "images", "img", "photo", "picture", "jpg", "jpeg", "png", "webp"),
        *("bytes", "image_bytes", "img_bytes", "image.bytes", "content", "data"),
    )
)
"""A binary column of one of these names holds images; so does any struct with binary `bytes`."""

ROWS_AT_A_TIME = 16
READ_BYTES = 1 << 20
"""Read ahead in a column: pyarrow would otherwise read that of a whole row group at once."""


class Cell(NamedTuple):
    """One row of a Parquet file."""

    row_group: int
    row: int
    """Inside its row group."""
    path: str | None
    """The name that the file itself gives the image."""
    data: bytes | None


@dataclass(frozen=True)
class ImageColumn:
    """Where a file has its images."""

    name: str
    is_struct: bool

    @property
    def leaves(self) -> list[str]:
        """What to read."""
        return [f"{self.name}.bytes", f"{self.name}.path"] if self.is_struct else [self.name]


def open_parquet(source: Any) -> pq.ParquetFile:
    """A file that is read a little at a time."""
    return pq.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False)


def image_column(schema: pa.Schema, wanted: str | None = None) -> ImageColumn | Undecodable:
    """The column that holds the images.

    Args: wanted: its name, where a file has several.
    Reasons: no_image_column, and the message names the columns there are.
    """
    usable = {
        field.name: is_struct
        for field in schema
        if (is_struct := _is_struct(field.type)) or _is_binary(field.type)
    }
    if wanted is not None:
        if wanted in usable:
            return ImageColumn(wanted, usable[wanted])
        return _no_column(f"no column {wanted!r} of bytes", schema)
    likely = [name for name, is_struct in usable.items() if is_struct or name.lower() in NAMES]
    names = likely or list(usable)
    if len(names) == 1:
        return ImageColumn(names[0], usable[names[0]])
    if names:
        return _no_column(f"which of {', '.join(names)} holds the images is not clear", schema)
    return _no_column("no column of image bytes", schema)


def cells(file: pq.ParquetFile, column: ImageColumn, row_group: int) -> Iterator[Cell]:
    """The rows of a row group in their order.

    Raises: pa.ArrowException, OSError: the file is damaged.
    """
    batches = file.iter_batches(
        ROWS_AT_A_TIME, row_groups=[row_group], columns=column.leaves, use_threads=False
    )
    row = 0
    for batch in batches:
        for value in batch.column(column.name).to_pylist():
            if column.is_struct:
                value = value or {}
                yield Cell(row_group, row, value.get("path"), value.get("bytes"))
            else:
                yield Cell(row_group, row, None, value)
            row += 1


def _is_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    position = kind.get_field_index("bytes")
    return position >= 0 and _is_binary(kind.field(position).type)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _no_column(what: str, schema: pa.Schema) -> Undecodable:
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return Undecodable("no_image_column", f"{what}; its columns are {columns}")
