"""Shards -> batches, as a pure function of the seed and the place in the stream.

Training reads one endless stream of photos, epoch after epoch, each epoch in its own order:

    place p in the stream        ->  epoch p // photos, position p % photos
    batch i of a rank            ->  places i * world * B + rank * B + (0 .. B - 1)
    photo, crop and augmentation ->  a function of (seed, epoch, position) alone

So ranks never share a photo within an epoch and leave none out, two ranks with B images see what
one rank with 2 B sees, and going on at any batch is exact. No photo is dropped at the end of an
epoch: the batch that begins there ends in the next one. And as a batch depends on nothing but its
number, any number of threads may make batches ahead without changing one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from tintlab.data.augment import Place, augmented, centre_place, cut, margin_px, random_place
from tintlab.data.shard_format.encoding import from_planes
from tintlab.data.shards import Photo, Shards
from tintlab.errors import ConfigError
from tintlab.settings import DataConfig

WINDOW_GROUPS = 32
"""Row groups that are mixed with one another: together half of what a reader caches."""

AHEAD = 4
"""Batches that are ready or being made while one is used, for each thread."""

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
    data: DataConfig,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
) -> Iterator[Batch]:
    """Augmented batches without end, from batch `start` on.

    Close the iterator, or let go of it, and its threads end.
    Args: batch_size: images in one batch of one rank.
    Raises: ConfigError: there is nothing to train on, or a photo is smaller than the crop.
    """
    _require_rank(rank, world_size)
    if shards.count("train") == 0:
        raise ConfigError(f"the train split of {shards.uri} is empty; prepare more photos")
    require_fit(shards, "train", data.crop_px)
    stream = Stream(shards, data, batch_size, seed, rank, world_size)
    if not len(stream.photos):
        raise ConfigError(
            f"all {shards.count('train')} train photos of {shards.uri} are left out: "
            f"{len(shards.copies_in('train'))} as copies of photos of val or test, the others as "
            "near-grey (data.exclude_near_grey); prepare other photos"
        )
    return in_order(stream.batch, start, data.loader_threads)


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

    Copies of photos of a later split are left out; of test, nothing is. The last batch may be
    smaller. A rank for which no photo is left gets no batch.
    Raises: ConfigError: there is no such split, or a photo is smaller than the crop.
    """
    _require_rank(rank, world_size)
    require_fit(shards, split, crop_px)
    mine = shards.used(split)[:limit][rank::world_size].tolist()
    return (
        centre_crops(shards, split, mine[at : at + batch_size], crop_px)
        for at in range(0, len(mine), batch_size)
    )


def centre_crops(shards: Shards, split: str, indices: Sequence[int], crop_px: int) -> Batch:
    """Centre crops of some photos of a split, none of which is smaller (`require_fit`)."""
    places = [_centre(shards, split, index, crop_px) for index in indices]
    return _stacked(_read(shards, split, indices, places))


def in_order(make: Callable[[int], Batch], start: int, threads: int) -> Iterator[Batch]:
    """`make(start)`, `make(start + 1)` and so on, made ahead by that many threads; 0 makes none.

    What `make` raises is raised where the batch would have come.
    """
    if threads == 0:
        while True:
            yield make(start)
            start += 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    ready: deque[Future[Batch]] = deque()
    try:
        while True:
            while len(ready) < threads * AHEAD:
                ready.append(pool.submit(make, start))
                start += 1
            yield ready.popleft().result()
    finally:  # also when the iterator is closed or collected
        pool.shutdown(cancel_futures=True)  # waits for the batches that are half made


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


class Stream:
    """Every batch of one rank, each a function of its number."""

    def __init__(
        self,
        shards: Shards,
        data: DataConfig,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._shards = shards
        self._data = data
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._sizes = shards.sizes("train")
        chosen = shards.trainable if data.exclude_near_grey else shards.used
        self.photos = chosen("train")
        """Indices of the photos that are trained on."""
        starts = np.searchsorted(self.photos, np.asarray(shards.group_starts("train")))
        # A group of which no photo is left starts where the next one does.
        self._group_starts = np.unique(starts[starts < len(self.photos)]).tolist()
        self._order = lru_cache(maxsize=2)(self._ordered)  # threads may be an epoch apart

    def batch(self, number: int) -> Batch:
        """One batch; any thread may make it.

        Raises: IntegrityError: a shard cannot be read, or has changed since the epoch before.
        """
        first = (number * self._world_size + self._rank) * self._batch_size
        indices, places, generators = [], [], []
        for number in range(first, first + self._batch_size):
            index, place, generator = self.drawn(number)
            indices.append(index)
            places.append(place)
            generators.append(generator)
        margin = margin_px(self._data)
        samples = _read(self._shards, "train", indices, [place.widened(margin) for place in places])
        return _stacked(
            [
                augmented(sample, self._data, generator)
                for sample, generator in zip(samples, generators, strict=True)
            ]
        )

    def drawn(self, number: int) -> tuple[int, Place, np.random.Generator]:
        """A photo of the stream, of all ranks: its index, its crop, and what draws the rest."""
        epoch, position = divmod(number, len(self.photos))
        generator = np.random.default_rng([_AUGMENT, self._seed, epoch, position])
        index = int(self._order(epoch)[position])
        height, width = self._sizes[index].tolist()
        return index, random_place(height, width, self._data.crop_px, generator), generator

    def _ordered(self, epoch: int) -> Int64[np.ndarray, "photos"]:
        self._shards.require_unchanged()  # pixels that are mapped would change without a word
        return self.photos[epoch_order(self._group_starts, len(self.photos), self._seed, epoch)]


def _read(
    shards: Shards, split: str, indices: Sequence[int], places: Sequence[Place]
) -> list[Photo]:
    """Equally large crops; what is not in them is never made into floats."""
    side = places[0].side_px
    L_planes = np.empty((len(indices), 2, side, side), np.uint8)
    ab_planes = np.empty((len(indices), 4, side, side), np.uint8)
    for L_crop, ab_crop, index, place in zip(L_planes, ab_planes, indices, places, strict=True):
        L, ab = shards.planes(split, index)
        L_crop[:] = cut(L, place)
        ab_crop[:] = cut(ab, place)
    names = shards.ids(split, indices)
    return [Photo(*photo) for photo in zip(names, *from_planes(L_planes, ab_planes), strict=True)]


def _centre(shards: Shards, split: str, index: int, crop_px: int) -> Place:
    height, width = shards.sizes(split)[index].tolist()
    return centre_place(height, width, crop_px)


def _stacked(samples: list[Photo]) -> Batch:
    return Batch(
        L=torch.from_numpy(np.stack([sample.L for sample in samples])[:, None]),
        ab=torch.from_numpy(np.stack([sample.ab for sample in samples])),
        ids=[sample.id for sample in samples],
    )


def _require_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be in 0..{world_size - 1} for {world_size} ranks, got {rank}")
