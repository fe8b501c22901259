"""Gumbel noise that any part of a sample can be given by itself.

All randomness of a sample is here. A row of noise is a pure function of the image's seed, of which
of its samples it is, and of the row: a counter-based generator (Salmon et al. 2011, Parallel Random
Numbers: As Easy as 1, 2, 3; its Philox 4x64-10) is set to that place and read from there. So
an image's noise does not depend on the images beside it, nor on the device, nor on the precision of
the model, and a grid of any size needs one row of noise at a time.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from numpy.random import Philox
from torch import Tensor

SEEDS = 2**64
"""Seeds are in [0, SEEDS)."""


def gumbel_row(
    seeds: Sequence[int],
    row: int,
    columns: int,
    channels: int,
    bins: int,
    num_samples: int = 1,
) -> Float64[Tensor, "B w C K"]:
    """Standard Gumbel noise of one row, for `num_samples` samples of each seed.

    On the CPU in float64. The samples of a seed are neighbours: B = len(seeds) * num_samples.

    Raises: ValueError: a seed is negative or above 64 bits.
    """
    wanted = columns * channels * bins
    raw = np.empty((len(seeds) * num_samples, wanted), np.uint64)
    for image, seed in enumerate(seeds):
        if not 0 <= seed < SEEDS:
            raise ValueError(f"a seed must be in [0, 2^64), got {seed}")
        for sample in range(num_samples):
            # Word 0 of the counter runs along the row, so no two rows can overlap. The raw words
            # are the generator's definition; numpy may change how it makes floats of them.
            place = Philox(key=seed, counter=[0, 0, row, sample])
            raw[image * num_samples + sample] = place.random_raw(wanted)
    # 52 bits and a half: never 0 and never 1, where a logarithm below would be infinite.
    raw >>= np.uint64(12)
    noise = raw.astype(np.float64)
    noise += 0.5
    noise *= 2.0**-52
    for _ in range(2):  # -log(-log(uniform)), in place
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return torch.from_numpy(noise.reshape(len(raw), columns, channels, bins))


def gumbel_noise(
    seeds: Sequence[int], channels: int, bins: int, rows: int, columns: int
) -> Float64[Tensor, "B C K h w"]:
    """The noise of a whole grid: what `sample` uses row by row."""
    of_rows = [gumbel_row(seeds, row, columns, channels, bins) for row in range(rows)]
    return torch.stack(of_rows, dim=1).permute(0, 3, 4, 1, 2)


def photo_seed(seed: int, photo: str) -> int:
    """The seed of one photo's noise, in [0, 2^63): its own, whatever else is painted with it."""
    digest = hashlib.sha256(f"{seed}:{photo}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
