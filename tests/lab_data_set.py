"""Small data sets written without Ray, for tests of reading."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from tintlab.data.prepare_config import Compression
from tintlab.data.shard_format import manifest
from tintlab.data.shard_format.copies import Copy, write_copies
from tintlab.data.shard_format.manifest import (
    Manifest,
    Parameters,
    QuarantineSummary,
    ShardEntry,
)
from tintlab.data.shard_format.rows import Row, make_row
from tintlab.data.shard_format.shard_writer import ShardWriter
from tintlab.data.shard_format.split import RULE
from tintlab.data.storage import resolve, written


def png(rgb: np.ndarray) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """A photo-like picture: every pixel differs, neighbours do not differ much."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    grain = generator.integers(-6, 7, (height, width, 3))
    return np.clip(np.asarray(smooth).astype(np.int16) + grain, 0, 255).astype(np.uint8)


def row_of(rgb: np.ndarray, split: str | None = None) -> Row:
    """What a shard holds of a picture; `split` overrides where it belongs."""
    row = make_row(png(rgb), "test/picture.png", None, 1, 10**6)
    assert isinstance(row, Row)
    return replace(row, split=split) if split else row


def write_data_set(
    uri: str,
    shards: Iterable[Iterable[Row]],
    near_grey_chroma: float = 0.0,
    compression: Compression = "none",
    copies: Sequence[Copy] = (),
) -> Manifest:
    """A data set with these shards, and these copies across splits."""
    parameters: Parameters = {"near_grey_chroma": near_grey_chroma}
    fs, root = resolve(uri)
    entries, parts = [], []
    for number, rows in enumerate(shards):
        path = f"{root}/shard-{number:016x}.parquet"
        with written(fs, path) as file:
            writer = ShardWriter(file, key=f"{number:064x}", compression=compression)
            for row in rows:
                writer.add(row)
            parts.append(writer.finish())
        count = sum(parts[-1].counts.values())
        name = path.rsplit("/", 1)[1]
        entries.append(ShardEntry(name=name, rows=count, sha256=file.sha256, bytes=file.bytes))
    summary = write_copies(fs, root, copies)
    smallest = {}
    for part in parts:
        smallest.update(part.smallest)  # good enough: the tests make equal shards
    result = Manifest(
        generation=1,
        parameters=parameters,
        split_rule=RULE,
        shards=entries,
        counts={
            split: sum(part.counts[split] for part in parts) for split in ("train", "val", "test")
        },
        smallest=smallest,
        ab=parts[0].ab,
        copies=summary,
        quarantine=QuarantineSummary(table=None, reasons={}),
        fingerprint=manifest.fingerprint(parameters, entries, summary),
    )
    result.write(fs, root)
    return result
