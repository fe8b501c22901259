"""Which photos look like one of some others: a search that never compares everything with all.

    hashes differ in <= 11 of 64 bits    proposes: the hash is an index, and all photos are searched
    8x8 grey levels differ by <= 6 RMS   confirms: flat photos hash alike, but are not equally light

Bits are cut into three bands. Two hashes that differ in at most 11 bits differ in at most 3 of some
band (pigeonhole principle), so a table from the value of a band to its photos is asked for every
value within 3 bits of the one searched for, and what it gives is compared in full. Of a million
photos with random hashes, the fifth that is searched for among the others takes 30 s on one core,
and 110 MB beside the 72 MB that tell their looks. Flat photos hash alike and take longer: a million
of which a tenth are flat take 130 s.

The two limits were chosen by measurement. Copies were JPEG and WebP of quality 60, 75 and 90 and
PNG, at full size, two thirds and half of it, through four kinds of resampling, 64 of each picture:

                                            bits, most    RMS, most
    2,240 copies of 35 photographs               4           0.9
    15,872 copies of 248 tiles of 96 px          7           2.8
    15,282 harder ones: quality 30, third size  11           2.9

Of these copies 171 of the first two kinds and 306 of the third were of val or test tiles or photos
and fell in train; all of them are found. Of 30,628 pairs of different tiles 12 are under both
limits, skies at night for the most part (712 under the first alone), of 595 pairs of
photographs none: the closest are 14 bits and 16 grey levels apart.

Source of the bands: Norouzi, Punjani, Fleet 2012, Fast Search in Hamming Space with Multi-Index
Hashing, sec. 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, combinations

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

MAX_BITS = 11
"""Bits in which the hashes of a photo and its copy may differ."""
MAX_RMS = 6.0
"""Grey levels of 255 by which their 8x8 grey levels may differ, root mean square."""

BAND_BITS = (22, 21, 21)
"""Wider bands have fewer photos to a value, and more values to ask for."""

BAND_MAX_BITS = MAX_BITS // len(BAND_BITS)

PAIRS = 1 << 18
"""Pairs that are compared at once."""
FEW_PAIRS = 1 << 26
"""So few are all compared, which is quicker than to make the tables: 18,000 photos or so."""

NOTHING = -1


@dataclass(frozen=True)
class Looks:
    """What some photos look like."""

    hashes: UInt64[np.ndarray, "photos"]
    coarse_grey: UInt8[np.ndarray, "photos 64"]

    def __len__(self) -> int:
        return len(self.hashes)


def nearest_copies(photos: Looks, originals: Looks) -> Int64[np.ndarray, "photos"]:
    """For each photo the original that it is a copy of, or NOTHING.

    Of several originals it is the one with the closest grey levels, and of those the first.
    """
    none = np.iinfo(np.int64).max
    best = np.full(len(photos), none)
    if not len(photos) or not len(originals):
        return np.full(len(photos), NOTHING)
    cells = photos.coarse_grey.shape[1]
    sums, sums_of_originals = (
        looks.coarse_grey.sum(axis=1, dtype=np.int32) for looks in (photos, originals)
    )
    for i, j in _proposed(photos.hashes, originals.hashes):
        # Cheap, and enough for most flat photos: means differ by no more than the RMS does.
        alike = np.abs(sums[i] - sums_of_originals[j]) <= MAX_RMS * cells
        i, j = i[alike], j[alike]
        difference = photos.coarse_grey[i].astype(np.int32) - originals.coarse_grey[j]
        error = np.einsum("pc,pc->p", difference, difference).astype(np.int64)
        close = error <= MAX_RMS**2 * cells
        np.minimum.at(best, i[close], error[close] * len(originals) + j[close])
    return np.where(best == none, NOTHING, best % len(originals))


def _proposed(
    photos: UInt64[np.ndarray, "photos"], originals: UInt64[np.ndarray, "originals"]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (photo, original) whose hashes differ in at most MAX_BITS, each once."""
    if len(photos) * len(originals) <= FEW_PAIRS:
        at_once = max(1, PAIRS // len(originals))
        for first in range(0, len(photos), at_once):
            different = photos[first : first + at_once, None] ^ originals
            i, j = np.nonzero(np.bitwise_count(different) <= MAX_BITS)
            yield first + i, j
        return
    earlier: list[np.uint64] = []
    for shift, width in zip(accumulate(BAND_BITS, initial=0), BAND_BITS, strict=False):
        band = np.uint64(((1 << width) - 1) << shift)
        values, asked_values = (
            ((h & band) >> np.uint64(shift)).astype(np.int64) for h in (photos, originals)
        )
        order = np.argsort(values, kind="stable")
        starts = np.zeros((1 << width) + 1, np.int32)
        np.cumsum(np.bincount(values, minlength=1 << width), out=starts[1:])
        # Asked for in the order of their values, so that neighbours ask for neighbours.
        asked = np.argsort(asked_values, kind="stable")
        asked_values = asked_values[asked]
        differences = _differences(width, BAND_MAX_BITS)
        at_once = max(1, PAIRS // len(originals))
        for first in range(0, len(differences), at_once):
            probes = (asked_values ^ differences[first : first + at_once, None]).ravel()
            begin = starts[probes]
            found = starts[probes + 1] - begin
            hits = np.flatnonzero(found)
            ends = np.cumsum(found[hits])
            total = int(ends[-1]) if len(ends) else 0
            for part in np.split(hits, np.searchsorted(ends, range(PAIRS, total, PAIRS))):
                number = found[part]
                skipped = np.cumsum(number) - number
                place = np.arange(number.sum()) + np.repeat(begin[part] - skipped, number)
                i = order[place]
                j = np.repeat(asked[part % len(originals)], number)
                different = photos[i] ^ originals[j]
                near = np.flatnonzero(np.bitwise_count(different) <= MAX_BITS)
                for other in earlier:  # there it was found before
                    near = near[np.bitwise_count(different[near] & other) > BAND_MAX_BITS]
                yield i[near], j[near]
        earlier.append(band)


def _differences(width: int, most: int) -> Int64[np.ndarray, "values"]:
    """Every number of `width` bits of which at most so many are set."""
    return np.array(
        [
            sum(1 << bit for bit in bits)
            for count in range(most + 1)
            for bits in combinations(range(width), count)
        ]
    )
