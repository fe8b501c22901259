"""A data set of eight tiny photos, written by the real shard writer without Ray."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from tintlab.data.shard_format.manifest import (
    NO_COPIES,
    Manifest,
    QuarantineSummary,
    fingerprint,
)
from tintlab.data.shard_format.rows import Row, make_row
from tintlab.data.shard_format.shard_writer import ShardWriter, entry_of
from tintlab.data.storage import resolve, written


def small_shards(folder: Path, seed: int = 0, validation: int = 0) -> str:
    """Eight photos of 16 px to train on, each with its own pair of colours; returns the URI.

    Args: validation: how many more are there to validate on.
    """
    draw = np.random.default_rng(seed)
    fs, root = resolve(str(folder))
    with written(fs, f"{root}/shard-{seed:016}.parquet") as file:
        writer = ShardWriter(file, key="test")
        for i in range(8 + validation):
            rgb = draw.integers(0, 256, (2, 1, 3)).repeat(8, axis=0).repeat(16, axis=1)
            rgb = np.clip(rgb + draw.integers(-20, 21, (16, 16, 1)), 0, 255).astype(np.uint8)
            _, png = cv2.imencode(".png", rgb)
            row = make_row(png.tobytes(), "test", None, min_side_px=16, max_pixels=256)
            assert isinstance(row, Row)
            writer.add(replace(row, split="train" if i < 8 else "val"))
        summary = writer.finish()
    shards = [entry_of(fs, f"{root}/shard-{seed:016}.parquet", rows=8 + validation)]
    Manifest(
        generation=1,
        parameters={},
        split_rule="the first eight are for training",
        shards=shards,
        counts=summary.counts,
        smallest=summary.smallest,
        ab=summary.ab,
        copies=NO_COPIES,
        quarantine=QuarantineSummary(table=None, reasons={}),
        fingerprint=fingerprint({}, shards, NO_COPIES),
    ).write(fs, root)
    return str(folder)
