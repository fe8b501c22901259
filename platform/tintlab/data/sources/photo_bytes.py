"""The bytes of one photo, wherever they are: a file, a part of a tar, a row of a Parquet file."""

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tintlab.data.decoding.images import Undecodable
from tintlab.data.sources.parquet_photos import Cell, ImageColumn, cells, open_parquet
from tintlab.data.storage import HASH_CHUNK_BYTES, is_local, resolve
from tintlab.redaction import redacted

MAX_FILE_BYTES = 256 << 20
"""A larger file is refused unread: 100 megapixels of 8-bit RGB take 300 MB without any compression,
and a worker's memory must not depend on what somebody called .jpg."""

TRY_AGAIN = frozenset(
    ("no_permission", "vanished", "not_a_file", "unreadable", "changed_while_read")
)
"""Reasons that say nothing about the bytes: such inputs are tried again by the next preparation."""

Got = TypeVar("Got")


class Place(NamedTuple):
    """Where the bytes of a photo are."""

    uri: str
    first_byte: int | None = None
    """Of a member of a tar."""
    length_bytes: int | None = None
    row_group: int | None = None
    """Of a row of a Parquet file."""
    row: int | None = None
    """Inside its row group."""
    column: str | None = None
    is_struct: bool = False
    """The column is {bytes, path}, and not just bytes."""


def opened(uri: str, use: Callable[[fsspec.AbstractFileSystem, str], Got]) -> Got | Undecodable:
    """What `use` makes of a file, or why it cannot be read.

    Reasons: no_permission, vanished, not_a_file, unreadable.
    """
    fs, path = resolve(uri)
    if is_local(fs) and os.path.exists(path) and not os.path.isfile(path):
        if os.path.isdir(path) and not os.path.islink(path):
            return Undecodable("no_permission", "the folder may not be looked into")
        return Undecodable("not_a_file", "a link to a folder, a pipe, a socket or a device")
    try:
        return use(fs, path)
    except PermissionError:
        return Undecodable("no_permission", "the file may not be read")
    except FileNotFoundError:
        return Undecodable("vanished", "the file is not there any more, or a link leads nowhere")
    except pa.ArrowInvalid as error:
        return Undecodable("damaged", f"not a whole Parquet file: {_line(error)}")
    except (OSError, pa.ArrowException) as error:
        return Undecodable("unreadable", _line(error))
    except Exception as error:
        if is_local(fs):
            raise
        # Drivers of remote storage raise what they like.
        return Undecodable("unreadable", f"{type(error).__name__}: {_line(error)}")


def digest(uri: str) -> str | Undecodable:
    """SHA-256 of a file, in hexadecimal, or why it cannot be read or is refused for its length."""

    def use(fs: fsspec.AbstractFileSystem, path: str) -> str | Undecodable:
        if (length_bytes := fs.size(path)) and (refusal := too_large(length_bytes)):
            return refusal
        digest = hashlib.sha256()
        with fs.open(path, "rb") as stream:
            while chunk := stream.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    return opened(uri, use)


def too_large(length_bytes: int) -> Undecodable | None:
    """The refusal of a file of this length, if it is one to refuse."""
    if length_bytes <= MAX_FILE_BYTES:
        return None
    return Undecodable("too_many_bytes", f"{length_bytes:,} bytes are more than {MAX_FILE_BYTES:,}")


class PhotoReader:
    """Reads photos one after another; rows of a Parquet file in their order are read once."""

    def __init__(self) -> None:
        self._stream: IO[bytes] | None = None
        self._file: pq.ParquetFile | None = None
        self._rows: Iterator[Cell] = iter(())
        self._last: Place | None = None

    def read(self, place: Place) -> bytes | Undecodable:
        """The bytes of a photo, or why there are none.

        Reasons: as `opened`, too_many_bytes, damaged.
        """
        if place.row is None:
            return opened(place.uri, lambda fs, path: _read(fs, path, place))
        data = opened(place.uri, lambda fs, path: self._cell(fs, path, place))
        self._last = None if isinstance(data, Undecodable) else place
        return data

    def __enter__(self) -> "PhotoReader":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the Parquet file, if one is open."""
        self._rows, self._file = iter(()), None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _cell(self, fs: fsspec.AbstractFileSystem, path: str, place: Place) -> bytes | Undecodable:
        last, row, row_group = self._last, place.row, place.row_group
        assert row is not None
        assert row_group is not None
        assert place.column is not None
        if last is None or (last.uri, last.column) != (place.uri, place.column):
            self.__exit__()
            self._stream = fs.open(path, "rb")
            self._file = open_parquet(self._stream)
        ahead = last is not None and last[:4] == place[:4] and (last.row or 0) < row
        if not ahead:
            column = ImageColumn(place.column, place.is_struct)
            assert self._file is not None
            self._rows = cells(self._file, column, row_group)
        for cell in self._rows:
            if cell.row == row and cell.data is not None:
                return too_large(len(cell.data)) or cell.data
        return Undecodable("vanished", "the row is not there any more")


def _read(fs: fsspec.AbstractFileSystem, path: str, place: Place) -> bytes | Undecodable:
    if place.first_byte is None or place.length_bytes is None:
        if (length_bytes := fs.size(path)) and (refusal := too_large(length_bytes)):
            return refusal
        data: bytes = fs.cat_file(path)
        return data
    if refusal := too_large(place.length_bytes):
        return refusal
    end = place.first_byte + place.length_bytes
    part: bytes = fs.cat_file(path, start=place.first_byte, end=end) if place.length_bytes else b""
    return part


def _line(error: Exception) -> str:
    return redacted(" ".join(str(error).split()))
