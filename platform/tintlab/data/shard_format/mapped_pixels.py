"""Pixels of a row group straight from a shard on this machine: mapped into memory, never copied.

A column that is stored without compression, in one page, ends with its values as they are:

    page header | levels | length of value 0 | value 0 | length of value 1 | value 1 | ...

So where each photo's planes are follows from the end of the column and the sizes of the photos, and
a crop touches only its own pages. Lengths take four bytes and are compared with the photos' sizes.

Source: Parquet format, Data Pages and Encodings (PLAIN, BYTE_ARRAY).
"""

import mmap
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8

from tintlab.data.shard_format.pixels import GroupPixels

LENGTH_BYTES = 4


def mapped_file(path: Path, file_bytes: int) -> UInt8[np.ndarray, "file"] | None:
    """The bytes of a file, read when they are touched; None if it has another size or is not there.

    It stays mapped for as long as any part of the array is held.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != file_bytes:
                return None
            return np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
    except OSError:
        return None


def mapped_pixels(
    content: UInt8[np.ndarray, "file"],
    footer: pq.FileMetaData,
    row_group: int,
    starts_px: Int64[np.ndarray, "starts"],
) -> GroupPixels | None:
    """The pixels of a row group; None if they are compressed, or the file is not as it should be.

    Args: content: see `mapped_file`. starts_px: pixels before each photo, and of all.
    """
    group = footer.row_group(row_group)
    chunks = {
        chunk.path_in_schema: chunk
        for chunk in (group.column(index) for index in range(group.num_columns))
        if chunk.path_in_schema in ("L", "ab")
    }
    if any(chunk.compression != "UNCOMPRESSED" for chunk in chunks.values()):
        return None
    L = _values(content, chunks["L"], 2 * starts_px)
    ab = _values(content, chunks["ab"], 4 * starts_px)
    if L is None or ab is None:
        return None
    return GroupPixels(L, ab, starts_px[:-1], LENGTH_BYTES, of_file=True)


def _values(
    content: UInt8[np.ndarray, "file"],
    chunk: pq.ColumnChunkMetaData,
    starts: Int64[np.ndarray, "starts"],
) -> UInt8[np.ndarray, "values"] | None:
    """The lengths and values of a column; None if the lengths are others than `starts` says."""
    photos = len(starts) - 1
    end = chunk.data_page_offset + chunk.total_compressed_size
    first = end - int(starts[-1]) - LENGTH_BYTES * photos
    if first < chunk.data_page_offset:
        return None
    values = content[first:end]
    at = starts[:-1] + LENGTH_BYTES * np.arange(photos)
    lengths = values[at[:, None] + np.arange(LENGTH_BYTES)].view("<u4")[:, 0]
    return values if np.array_equal(lengths, np.diff(starts)) else None
