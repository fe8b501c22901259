"""What one worker does of a preparation: hash some files, or make one shard. No Ray in here."""

from typing import Any

import cv2
import fsspec
from pydantic import Field

from tintlab.config import Settings
from tintlab.data import encoding, shard_writer
from tintlab.data.images import MAX_PIXELS, Undecodable
from tintlab.data.manifest import Parameters, ShardEntry
from tintlab.data.rows import Row, make_row
from tintlab.data.shard_writer import ShardSummary, ShardWriter, finished_shard
from tintlab.data.sources import digest, read
from tintlab.data.storage import resolve, written


class PrepareConfig(Settings):
    """What is stored of each photo; a data set keeps to one such configuration."""

    short_side_px: int | None = Field(256, ge=16, le=8192)
    """Photos are made this small on their short side, never larger; None keeps their size."""
    min_side_px: int = Field(16, ge=1)
    """Photos with a shorter side go to quarantine."""
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    """Photos with more pixels go to quarantine, undecoded."""
    shard_rows: int = Field(256, ge=1)
    """Photos in one shard: about 80 MB at 256 px."""


def parameters_of(config: PrepareConfig) -> Parameters:
    """Everything that decides what a photo becomes."""
    return {
        **config.model_dump(),
        **encoding.PARAMETERS,
        "compression": f"{shard_writer.COMPRESSION} {shard_writer.COMPRESSION_LEVEL}",
        "row_group_bytes": shard_writer.ROW_GROUP_BYTES,
    }


def hash_task(task: dict[str, Any]) -> dict[str, Any]:
    digests: list[tuple[str, str | None, str, str]] = []
    for uri in task["uris"]:
        found = digest(uri)
        if isinstance(found, Undecodable):
            digests.append((uri, None, found.reason, found.message))
        else:
            digests.append((uri, found, "", ""))
    return {"digests": digests}


def shard_task(task: dict[str, Any]) -> dict[str, Any]:
    """Make one shard, unless it is there; memory stays at a few row groups and one photo."""
    cv2.setNumThreads(1)  # the task was given one core
    fs, root = resolve(task["out"])
    key, photos = task["key"], task["photos"]
    path = f"{root}/shard-{key[:16]}.parquet"
    try:
        finished = finished_shard(fs, path, key)
        decoded = 0
        if finished is None:
            finished = _write_shard(fs, path, key, photos, PrepareConfig(**task["config"]))
            decoded = len(photos)
    except OSError as error:
        return {"fault": " ".join(str(error).split())}
    entry, summary = finished
    return {
        "entry": entry.model_dump(),
        "summary": summary.model_dump(),
        "photos": len(photos),
        "decoded": decoded,
    }


def _write_shard(
    fs: fsspec.AbstractFileSystem,
    path: str,
    key: str,
    photos: list[tuple[str, str, str]],
    config: PrepareConfig,
) -> tuple[ShardEntry, ShardSummary]:
    with written(fs, path) as file:
        writer = ShardWriter(file, key)
        for uri, name, sha256 in photos:
            row = _row(uri, name, sha256, config)
            if isinstance(row, Undecodable):
                writer.refuse(sha256, row.reason, row.message)
            else:
                writer.add(row)
        summary = writer.finish()
    rows = sum(summary.counts.values())
    name = path.rsplit("/", 1)[1]
    return ShardEntry(name=name, rows=rows, sha256=file.sha256, bytes=file.bytes), summary


def _row(uri: str, name: str, sha256: str, config: PrepareConfig) -> Row | Undecodable:
    """The row of one file, whatever is in it."""
    data = read(uri)
    if isinstance(data, Undecodable):
        return data
    try:
        row = make_row(data, name, config.short_side_px, config.min_side_px, config.max_pixels)
    except Exception as error:  # one file must not end the run; the reason says it is our fault
        message = " ".join(str(error).split())
        return Undecodable("unexpected_error", f"{type(error).__name__}: {message}")
    if isinstance(row, Row) and row.sha256 != sha256:
        return Undecodable("changed_while_read", "other bytes than when it was hashed")
    return row
