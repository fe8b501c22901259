"""The table of copies: photos that look like one of a later split, and are left out of their own.

    copies-<16 digits>.parquet    SCHEMA: one row per copy, and which photo it is a copy of

Splits come in the order train, val, test. A copy in train is not trained on, and its colours are
in no statistics; a copy in val is not validated on, because that chooses between models. No photo
of test is ever left out, so that what a test measures never changes. The shards know nothing of
this: each generation of the manifest names a table of its own.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tintlab.data.shard_format.manifest import (
    NO_COPIES,
    CopiesSummary,
    Manifest,
    ShardEntry,
    digest_of,
)
from tintlab.data.storage import full_uri, written
from tintlab.errors import IntegrityError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("copy_of", pa.string()),
        ("copy_of_split", pa.string()),
        ("bits", pa.int32()),
        ("rms", pa.float32()),
    ]
)


class Copy(NamedTuple):
    """One photo that looks like another of a later split."""

    id: str
    """Of the one that is left out, as a shard has it."""
    split: str
    copy_of: str
    """Id of the other."""
    copy_of_split: str
    bits: int
    """Bits in which their perceptual hashes differ."""
    rms: float
    """Root mean square of what their 8x8 grey levels differ by."""


def write_copies(fs: fsspec.AbstractFileSystem, root: str, copies: Sequence[Copy]) -> CopiesSummary:
    """Write the table under a name that follows from its content; no table if there is nothing."""
    if not copies:
        return NO_COPIES
    counts = NO_COPIES.counts | Counter(copy.split for copy in copies)
    name = f"copies-{digest_of(copies)[:16]}.parquet"
    columns = [list(column) for column in zip(*copies, strict=True)]
    with written(fs, f"{root}/{name}") as file:
        pq.write_table(pa.table(columns, schema=SCHEMA), file, compression="zstd")
    table = ShardEntry(name=name, rows=len(copies), sha256=file.sha256, bytes=file.bytes)
    return CopiesSummary(table=table, counts=counts)


def read_copies(fs: fsspec.AbstractFileSystem, root: str, manifest: Manifest) -> list[Copy]:
    """The copies of a data set, in the order of splits and photos.

    Raises: IntegrityError: the table is missing or broken.
    """
    entry = manifest.copies.table
    if entry is None:
        return []
    try:
        with fs.open(f"{root}/{entry.name}", "rb") as stream:
            rows = pq.read_table(stream, schema=SCHEMA).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise IntegrityError(
            f"{full_uri(fs, root)}/{entry.name} cannot be read: {' '.join(str(error).split())}; "
            "restore it, or delete the folder and run tintlab prepare again"
        ) from None
    return [Copy(**row) for row in rows]
