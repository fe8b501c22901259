"""The data set of the benchmarks that train: tiles of the photographs that packages bring."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tintlab.cluster import connect
from tintlab.config import Workspace
from tintlab.data.photos import write_packaged_photos
from tintlab.data.prepare import PrepareConfig, prepare
from tintlab.data.shards import Shards, open_shards

RESAMPLES = 10_000


@contextmanager
def packaged_shards() -> Iterator[Shards]:
    """Lab shards of the tiles, made as users make theirs; gone after the block."""
    with TemporaryDirectory(prefix="tintlab-benchmark-") as folder:
        write_packaged_photos(Path(folder) / "photos")
        with connect(Workspace.at(f"{folder}/workspace")):
            prepare([f"{folder}/photos"], f"{folder}/shards", PrepareConfig())
        yield open_shards(f"{folder}/shards")


def paired_interval(better: np.ndarray, worse: np.ndarray, seed: int = 0) -> dict[str, float]:
    """How much lower `better` is on the same photos: mean, and its 95 % bootstrap interval.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentiles).
    """
    gain = worse - better
    drawn = np.random.default_rng(seed).integers(len(gain), size=(RESAMPLES, len(gain)))
    low, high = np.percentile(gain[drawn].mean(axis=1), [2.5, 97.5])
    return {"mean": float(gain.mean()), "low": float(low), "high": float(high)}
