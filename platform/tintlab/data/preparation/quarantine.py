"""The quarantine table: every file that could not be stored, by name, with the reason."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tintlab.data.shard_format.manifest import Manifest, QuarantineSummary, ShardEntry, digest_of
from tintlab.data.storage import full_uri, written
from tintlab.errors import IntegrityError

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("sha256", pa.string()),
    ]
)


class Quarantined(NamedTuple):
    """One file that could not be stored."""

    path: str
    """Its name, as a shard's column `source` would have it."""
    reason: str
    message: str
    sha256: str | None
    """Of its bytes; None if they could not be read, and will be tried again."""


def write_quarantine(
    fs: fsspec.AbstractFileSystem, root: str, files: Iterable[Quarantined]
) -> QuarantineSummary:
    """Write the table under a name that follows from its content; no table if there is nothing."""
    rows = sorted(set(files), key=lambda file: (file.path, file.sha256 or "", file.reason))
    if not rows:
        return QuarantineSummary(table=None, reasons={})
    name = f"quarantine-{digest_of(rows)[:16]}.parquet"
    columns = [list(column) for column in zip(*rows, strict=True)]
    with written(fs, f"{root}/{name}") as file:
        pq.write_table(pa.table(columns, schema=SCHEMA), file)
    table = ShardEntry(name=name, rows=len(rows), sha256=file.sha256, bytes=file.bytes)
    reasons = Counter(row.reason for row in rows)
    return QuarantineSummary(table=table, reasons=dict(sorted(reasons.items())))


def read_quarantine(
    fs: fsspec.AbstractFileSystem, root: str, manifest: Manifest
) -> list[Quarantined]:
    """The files in quarantine of a data set.

    Raises: IntegrityError: the table is missing or broken.
    """
    entry = manifest.quarantine.table
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
    return [Quarantined(**row) for row in rows]
