"""The data set of the benchmarks that train: tiles of the photographs that packages bring."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tintlab.cluster import connect
from tintlab.config import Workspace
from tintlab.data.photos import scene_of, write_packaged_photos
from tintlab.data.prepare import PrepareConfig, prepare
from tintlab.data.shards import Shards, open_shards
from tintlab.evaluation.evaluate import photo_sources

RESAMPLES = 4000


@contextmanager
def packaged_shards() -> Iterator[Shards]:
    """Lab shards of the tiles, made as users make theirs; gone after the block."""
    with TemporaryDirectory(prefix="tintlab-benchmark-") as folder:
        write_packaged_photos(Path(folder) / "photos")
        with connect(Workspace.at(f"{folder}/workspace")):
            prepare([f"{folder}/photos"], f"{folder}/shards", PrepareConfig())
        yield open_shards(f"{folder}/shards")


def photographs(shards: Shards, ids: list[str]) -> list[str]:
    """The photograph that each tile was cut from."""
    sources = photo_sources(shards)
    return [scene_of(sources[tile], tile) for tile in ids]


def interval(gains: np.ndarray, groups: list[str]) -> dict[str, float]:
    """The mean of gains (seeds, tiles), and its 95 % bootstrap interval.

    Seeds, photographs and tiles of a photograph are drawn anew each time: tiles of one photograph
    are alike, and an interval that takes them for independent is too narrow.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentiles);
    Davison and Hinkley 1997, Bootstrap Methods, sec. 3.8 (hierarchical data).
    """
    members = [np.flatnonzero(np.array(groups) == group) for group in sorted(set(groups))]
    generator = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        seeds = generator.integers(len(gains), size=len(gains))
        drawn = [members[i] for i in generator.integers(len(members), size=len(members))]
        tiles = np.concatenate([generator.choice(tiles, len(tiles)) for tiles in drawn])
        means.append(gains[seeds][:, tiles].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(gains.mean()), "low": float(low), "high": float(high)}
