"""A file of the sources -> the inputs it stands for, each with the hash of its bytes.

This is the one place that decides what is counted: a plain file is one input, a tar as many as it
has images, a Parquet file as many as it has rows; and what is missing from a damaged one is one
more, so that it shows up in quarantine.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import fsspec
import pyarrow as pa

from tintlab.data.decoding.images import Undecodable
from tintlab.data.sources.listing import COMPRESSED_TAR, PARQUET, PLAIN, TAR, Source, printable
from tintlab.data.sources.parquet_photos import ImageColumn, cells, image_column, open_parquet
from tintlab.data.sources.photo_bytes import Place, digest, opened
from tintlab.data.sources.tars import Member, members
from tintlab.data.storage import HASH_CHUNK_BYTES
from tintlab.errors import ConfigError

PARQUET_MAGIC = b"PAR1"


class Input(NamedTuple):
    """One photo that was offered, good or bad."""

    name: str
    """Of the file; in a container `<container>/<member>`."""
    place: Place
    sha256: str | None
    """Of its bytes; None if they cannot be read."""
    reason: str = ""
    """Why they cannot."""
    message: str = ""


class Inputs(NamedTuple):
    """Everything a file stands for."""

    inputs: list[Input]
    left_out: int
    """Members of a tar that are not images by their names."""


def inputs_of(source: Source, wanted_column: str | None = None) -> Inputs:
    """The inputs in one file, hashed; reads it once, a little at a time."""
    if source.kind == PLAIN:
        return Inputs([_judged(source.name, Place(source.uri), digest(source.uri))], 0)
    found: list[Input] = []
    left_out = 0

    def collect(fs: fsspec.AbstractFileSystem, path: str) -> Undecodable | None:
        nonlocal left_out
        if source.kind == COMPRESSED_TAR:
            return Undecodable("unsupported_format", "a compressed tar; decompress it to a .tar")
        if not fs.size(path):
            return Undecodable("empty", "the file has no bytes")
        if source.kind == PARQUET:
            found.extend(_rows(fs, path, source, wanted_column))
            return None
        for item in _members(fs, path, source):
            if item is None:
                left_out += 1
            else:
                found.append(item)
        return None

    problem = opened(source.uri, collect)
    if problem is None and not found:
        problem = Undecodable("no_images", "there is no image in it")
    if problem is not None:
        if found:
            message = f"{problem.message}; the {len(found)} photos before it were taken"
            problem = Undecodable(problem.reason, message)
        found.append(_judged(source.name, Place(source.uri), problem))
    return Inputs(found, left_out)


def count_of(source: Source) -> int:
    """How many inputs a file stands for, without reading the photos; 1 for one that is damaged."""

    def use(fs: fsspec.AbstractFileSystem, path: str) -> int:
        with fs.open(path, "rb") as stream:
            if source.kind == PARQUET:
                return int(open_parquet(stream).metadata.num_rows)
            found = list(members(stream, fs.size(path)))
            return sum(item.is_image if isinstance(item, Member) else 1 for item in found)

    count = opened(source.uri, use) if source.kind in (TAR, PARQUET) else 1
    return 1 if isinstance(count, Undecodable) else max(count, 1)


def require_image_columns(files: list[Source], wanted_column: str | None) -> None:
    """Refuse Parquet files without images that somebody named; found ones go to quarantine.

    Raises: ConfigError: a column of images is missing or not clear.
    """
    for source in files:
        if source.kind == PARQUET and source.named:
            column = opened(source.uri, lambda fs, path: _column(fs, path, wanted_column))
            if isinstance(column, Undecodable) and column.reason == "no_image_column":
                raise ConfigError(f"{source.name}: {column.message}; name it with --image-column")


def _judged(name: str, place: Place, found: str | Undecodable) -> Input:
    if isinstance(found, Undecodable):
        return Input(name, place, None, found.reason, found.message)
    return Input(name, place, found)


def _column(
    fs: fsspec.AbstractFileSystem, path: str, wanted: str | None
) -> ImageColumn | Undecodable:
    with fs.open(path, "rb") as stream:
        return image_column(open_parquet(stream).schema_arrow, wanted)


def _members(fs: fsspec.AbstractFileSystem, path: str, source: Source) -> Iterator[Input | None]:
    """The images in a tar; None for each member that is none."""
    with fs.open(path, "rb") as stream:
        for member in members(stream, fs.size(path)):
            if not isinstance(member, Member):
                name, problem = member
                name = f"{source.name}/{printable(name)}" if name else source.name
                yield _judged(name, Place(source.uri), problem)
            elif not member.is_image:
                yield None
            else:
                place = Place(source.uri, member.first_byte, member.length_bytes)
                stream.seek(member.first_byte)
                digest, left = hashlib.sha256(), member.length_bytes
                while left and (chunk := stream.read(min(left, HASH_CHUNK_BYTES))):
                    digest.update(chunk)
                    left -= len(chunk)
                yield Input(f"{source.name}/{printable(member.name)}", place, digest.hexdigest())


def _rows(
    fs: fsspec.AbstractFileSystem, path: str, source: Source, wanted_column: str | None
) -> Iterator[Input]:
    """The rows of a Parquet file."""
    with fs.open(path, "rb") as stream:
        try:
            file = open_parquet(stream)
        except pa.ArrowInvalid as error:
            cut = fs.cat_file(path, start=0, end=len(PARQUET_MAGIC)) == PARQUET_MAGIC
            what = " ".join(str(error).split())
            problem = Undecodable("truncated" if cut else "damaged", what)
            yield _judged(source.name, Place(source.uri), problem)
            return
        column = image_column(file.schema_arrow, wanted_column)
        if isinstance(column, Undecodable):
            yield _judged(source.name, Place(source.uri), column)
            return
        number = 0
        for row_group in range(file.metadata.num_row_groups):
            for cell in cells(file, column, row_group):
                place = Place(
                    source.uri,
                    row_group=row_group,
                    row=cell.row,
                    column=column.name,
                    is_struct=column.is_struct,
                )
                name = f"{source.name}/{printable(cell.path) if cell.path else f'{number:08}'}"
                if cell.data is None:
                    yield Input(name, place, None, "empty", "the row has no bytes")
                else:
                    yield Input(name, place, hashlib.sha256(cell.data).hexdigest())
                number += 1
