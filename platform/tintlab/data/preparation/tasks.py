"""What one worker does of a preparation: hash some files, or make some shards. No Ray in here."""

import hashlib
from typing import Any

import cv2
import fsspec

from tintlab.data.decoding.images import Undecodable
from tintlab.data.prepare_config import PrepareConfig
from tintlab.data.shard_format import copy_search, encoding, shard_writer
from tintlab.data.shard_format.manifest import Parameters, ShardEntry
from tintlab.data.shard_format.rows import Row, make_row
from tintlab.data.shard_format.shard_writer import ShardSummary, ShardWriter, finished_shard
from tintlab.data.sources.inputs import inputs_of
from tintlab.data.sources.listing import Source
from tintlab.data.sources.photo_bytes import PhotoReader, Place
from tintlab.data.storage import is_local, resolve, written


def parameters_of(config: PrepareConfig) -> Parameters:
    """Everything that decides what a photo becomes, and which are copies."""
    return {
        **config.model_dump(),
        **encoding.PARAMETERS,
        "zstd_level": shard_writer.COMPRESSION_LEVEL,
        "page_bytes": shard_writer.PAGE_BYTES,
        "row_group_bytes": shard_writer.ROW_GROUP_BYTES,
        "copy_max_bits": copy_search.MAX_BITS,
        "copy_max_rms": copy_search.MAX_RMS,
    }


def hash_task(task: dict[str, Any]) -> dict[str, Any]:
    """List and hash the photos in some files."""
    found = [inputs_of(Source(*source), task["image_column"]) for source in task["files"]]
    return {
        "files": len(found),
        "inputs": [item for part in found for item in part.inputs],
        "left_out": sum(part.left_out for part in found),
    }


def shards_task(task: dict[str, Any]) -> dict[str, Any]:
    """Make some shards, one after the other, but for those that are there.

    Memory stays at a few row groups and one photo.
    """
    cv2.setNumThreads(1)  # the task was given one core
    fs, root = resolve(task["out"])
    config = PrepareConfig(**task["config"])
    made = []
    with PhotoReader() as reader:
        for shard in task["shards"]:
            key, photos = shard["key"], shard["photos"]
            path = f"{root}/shard-{key[:16]}.parquet"
            try:
                finished = finished_shard(fs, path, key)
                decoded = 0 if finished else len(photos)
                entry, summary = finished or _write_shard(fs, path, key, photos, config, reader)
            except Exception as error:  # drivers of remote storage raise what they like
                if is_local(fs) and not isinstance(error, OSError):
                    raise
                return {"fault": " ".join(str(error).split())}
            made.append(
                {
                    "entry": entry.model_dump(),
                    "summary": summary.model_dump(),
                    "photos": len(photos),
                    "decoded": decoded,
                }
            )
    return {"made": made}


def _write_shard(
    fs: fsspec.AbstractFileSystem,
    path: str,
    key: str,
    photos: list[list[Any]],
    config: PrepareConfig,
    reader: PhotoReader,
) -> tuple[ShardEntry, ShardSummary]:
    with written(fs, path) as file:
        writer = ShardWriter(file, key, config.near_grey_chroma, config.compression)
        for place, name, sha256 in photos:
            row = _row(reader.read(Place(*place)), name, sha256, config)
            if isinstance(row, Undecodable):
                writer.refuse(sha256, row.reason, row.message)
            else:
                writer.add(row)
        summary = writer.finish()
    rows = sum(summary.counts.values())
    name = path.rsplit("/", 1)[1]
    return ShardEntry(name=name, rows=rows, sha256=file.sha256, bytes=file.bytes), summary


def _row(
    data: bytes | Undecodable, name: str, sha256: str, config: PrepareConfig
) -> Row | Undecodable:
    """The row of one photo, whatever is in it."""
    if isinstance(data, Undecodable):
        return data
    try:
        row = make_row(data, name, config.short_side_px, config.min_side_px, config.max_pixels)
    except Exception as error:  # one file must not end the run; the reason says it is our fault
        message = " ".join(str(error).split())
        return Undecodable("unexpected_error", f"{type(error).__name__}: {message}")
    found = row.sha256 if isinstance(row, Row) else hashlib.sha256(data).hexdigest()
    if found != sha256:
        return Undecodable("changed_while_read", "other bytes than when it was hashed")
    return row
