"""How often each ab colour occurs: what class rebalancing and the marginal need to know.

Everything counted is an integer, so that sums over photos and shards are exact in any order.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt16

from tintlab.config import Settings
from tintlab.data.encoding import A_STEP, AB_OFFSET, B_STEP

BIN_WIDTH = 10.0
"""Side of a histogram cell in ab units: the grid of Zhang et al. 2016."""
BINS = 22
"""Cells on each axis; they cover [-110, 110)."""


class AbStatistics(Settings):
    """Moments and joint histogram of a and b over the pixels of some photos."""

    pixels: int
    """Pixels counted."""
    code_sum: tuple[int, int]
    """Sum over pixels of a / a_step and of b / b_step."""
    code_square_sum: tuple[int, int]
    """Sum of the squares of the same."""
    histogram: list[list[int]]
    """Pixels in each cell, rows a and columns b, cell i covering [10 i - 110, 10 i - 100)."""

    @property
    def mean(self) -> tuple[float, float]:
        """Mean a and b in CIE units; 0 where no pixel was counted."""
        pixels = max(self.pixels, 1)
        a, b = self.code_sum
        return a / pixels * A_STEP, b / pixels * B_STEP

    @property
    def std(self) -> tuple[float, float]:
        """Standard deviation of a and b in CIE units; 0 where no pixel was counted."""
        pixels = max(self.pixels, 1)
        variances = [
            square / pixels - (total / pixels) ** 2
            for total, square in zip(self.code_sum, self.code_square_sum, strict=True)
        ]
        a, b = (max(variance, 0.0) ** 0.5 for variance in variances)
        return a * A_STEP, b * B_STEP


def statistics_of(codes: UInt16[np.ndarray, "3 H W"]) -> AbStatistics:
    """How often each ab colour occurs in one photo."""
    cells = _cell(codes[1], A_STEP) * np.uint16(BINS) + _cell(codes[2], B_STEP)
    histogram = np.bincount(cells.ravel(), minlength=BINS * BINS).reshape(BINS, BINS)
    # float64 holds these sums exactly: a square is below 2^24, and a photo has below 2^29 pixels.
    centred = codes[1:].reshape(2, -1).astype(np.float64) - AB_OFFSET
    sums = centred.sum(axis=1)
    squares = [float(plane @ plane) for plane in centred]
    return AbStatistics(
        pixels=codes[0].size,
        code_sum=(int(sums[0]), int(sums[1])),
        code_square_sum=(int(squares[0]), int(squares[1])),
        histogram=histogram.tolist(),
    )


def merged(parts: Iterable[AbStatistics]) -> AbStatistics:
    """The statistics of all pixels of all parts."""
    pixels = 0
    moments = [0, 0, 0, 0]
    histogram = np.zeros((BINS, BINS), np.int64)
    for part in parts:
        pixels += part.pixels
        for i, value in enumerate((*part.code_sum, *part.code_square_sum)):
            moments[i] += value
        histogram += np.array(part.histogram, np.int64)
    return AbStatistics(
        pixels=pixels,
        code_sum=(moments[0], moments[1]),
        code_square_sum=(moments[2], moments[3]),
        histogram=histogram.tolist(),
    )


def _cell(codes: UInt16[np.ndarray, "H W"], step: float) -> UInt16[np.ndarray, "H W"]:
    """Which cell of its axis each code falls in; sRGB colours are all within the outer ones."""
    cells = codes * np.float32(step / BIN_WIDTH)
    cells += np.float32(BINS / 2 - AB_OFFSET * step / BIN_WIDTH)
    return cells.astype(np.uint16)
