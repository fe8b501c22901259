"""Shards -> batches, as a pure function of the seed and the place in the stream.

Training reads one endless stream of photos, epoch after epoch, each epoch in its own order:

    place p in the stream   ->  epoch p // photos, position p % photos
    batch i of a rank       ->  places i * world * B + rank * B + (0 .. B - 1)
    photo, crop and flip    ->  a function of (seed, epoch, position) alone

So ranks never share a photo within an epoch and leave none out, two ranks with B images see what
one rank with 2 B sees, and going on at any batch is exact. No photo is dropped at the end of an
epoch: the batch that begins there ends in the next one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from tintlab.data.augment import centre_crop, random_crop, random_flip
from tintlab.data.shards import Photo, Shards
from tintlab.errors import ConfigError

WINDOW_GROUPS = 32
"""Row groups that are mixed with one another: together half of what a reader caches."""

_ORDER, _AUGMENT = 0, 1  # which of the generators of a seed


@dataclass(frozen=True)
class Batch:
    """Photos of equal size, stacked."""

    L: Float32[Tensor, "B 1 H W"]
    """Lightness in [0, 100]."""
    ab: Float32[Tensor, "B 2 H W"]
    """CIE a and b under D65."""
    ids: list[str]


def train_batches(
    shards: Shards,
    crop_px: int,
    flip: bool,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
) -> Iterator[Batch]:
    """Batches of random crops without end, from batch `start` on.

    Args: batch_size: images in one batch of one rank.
    Raises: ConfigError: the train split is empty, or a photo is smaller than the crop.
    """
    _require_rank(rank, world_size)
    if shards.count("train") == 0:
        raise ConfigError(f"the train split of {shards.uri} is empty; prepare more photos")
    require_fit(shards, "train", crop_px)
    return _training(shards, crop_px, flip, batch_size, seed, rank, world_size, start)


def eval_batches(
    shards: Shards,
    split: str,
    crop_px: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Centre crops of every photo of a split once, or of its first `limit`, dealt out over ranks.

    The last batch may be smaller. A rank for which no photo is left gets no batch.
    Raises: ConfigError: there is no such split, or a photo is smaller than the crop.
    """
    _require_rank(rank, world_size)
    require_fit(shards, split, crop_px)
    count = shards.count(split)
    mine = range(rank, count if limit is None else min(limit, count), world_size)
    return (
        _stacked([centre_crop(shards.photo(split, index), crop_px) for index in part])
        for part in (mine[at : at + batch_size] for at in range(0, len(mine), batch_size))
    )


def require_fit(shards: Shards, split: str, crop_px: int) -> None:
    """Raises: ConfigError: a photo of the split is smaller than the crop on a side."""
    smallest = shards.manifest.smallest.get(split)
    if smallest is None or crop_px <= min(smallest.height, smallest.width):
        return
    sizes = shards.sizes(split)
    index = int(sizes.min(axis=1).argmin())
    height, width = (int(side) for side in sizes[index])
    fits = min(height, width)
    raise ConfigError(
        f"crop_px={crop_px} is larger than photo {shards.ids(split)[index]} of split {split}, "
        f"which is {width}x{height}; the largest crop that fits every photo is {fits}"
    )


def epoch_order(
    group_starts: Sequence[int], count: int, seed: int, epoch: int
) -> Int64[np.ndarray, "photos"]:
    """A permutation of the photos 0..count-1 that is cheap to read.

    Photos that are stored together (`group_starts` has the first of each group) stay within a
    window of WINDOW_GROUPS groups, which fits the reader's cache; groups are put into windows at
    random, and photos within a window are mixed completely. One window or less is a plain shuffle.
    """
    generator = np.random.default_rng([_ORDER, seed, epoch])
    groups = np.split(np.arange(count, dtype=np.int64), np.asarray(group_starts[1:], np.int64))
    places = generator.permutation(len(groups))
    windows = [
        np.concatenate([groups[group] for group in places[at : at + WINDOW_GROUPS]])
        for at in range(0, len(groups), WINDOW_GROUPS)
    ]
    return np.concatenate([generator.permutation(window) for window in windows])


def _training(
    shards: Shards,
    crop_px: int,
    flip: bool,
    batch_size: int,
    seed: int,
    rank: int,
    world_size: int,
    start: int,
) -> Iterator[Batch]:
    count = shards.count("train")
    group_starts = shards.group_starts("train")
    ordered_epoch, order = -1, np.zeros(0, np.int64)
    batch = start
    while True:
        first = (batch * world_size + rank) * batch_size
        samples = []
        for place in range(first, first + batch_size):
            epoch, position = divmod(place, count)
            if epoch != ordered_epoch:
                ordered_epoch, order = epoch, epoch_order(group_starts, count, seed, epoch)
            photo = shards.photo("train", int(order[position]))
            generator = np.random.default_rng([_AUGMENT, seed, epoch, position])
            sample = random_crop(photo, crop_px, generator)
            samples.append(random_flip(sample, generator) if flip else sample)
        yield _stacked(samples)
        batch += 1


def _stacked(samples: list[Photo]) -> Batch:
    return Batch(
        L=torch.from_numpy(np.stack([sample.L for sample in samples])[:, None]),
        ab=torch.from_numpy(np.stack([sample.ab for sample in samples])),
        ids=[sample.id for sample in samples],
    )


def _require_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be in 0..{world_size - 1} for {world_size} ranks, got {rank}")
