"""Moments of L, a and b, and how often each ab colour occurs: for rebalancing and the marginal.

Everything counted is an integer, so that sums over photos and shards are exact in any order.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import UInt16

from tintlab.data.shard_format.encoding import A_STEP, AB_OFFSET, B_STEP, L_STEP
from tintlab.settings import Settings

BIN_WIDTH = 10.0
"""Side of a histogram cell in ab units: the grid of Zhang et al. 2016."""
BINS = 22
"""Cells on each axis; they cover [-110, 110)."""


class AbStatistics(Settings):
    """Moments of L, a and b and joint histogram of a and b, over the pixels of some photos."""

    pixels: int
    """Pixels counted."""
    L_code_sum: int
    """Sum over pixels of L / L_step."""
    L_code_square_sum: int
    """Sum of the squares of the same."""
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
    def L_mean(self) -> float:
        """Mean L in [0, 100]; 0 where no pixel was counted."""
        return self.L_code_sum / max(self.pixels, 1) * L_STEP

    @property
    def L_std(self) -> float:
        """Standard deviation of L; 0 where no pixel was counted."""
        pixels = max(self.pixels, 1)
        variance = self.L_code_square_sum / pixels - (self.L_code_sum / pixels) ** 2
        return max(variance, 0.0) ** 0.5 * L_STEP

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
    """Moments and ab histogram of one photo."""
    cells = _cell(codes[1], A_STEP) * np.uint16(BINS) + _cell(codes[2], B_STEP)
    histogram = np.bincount(cells.ravel(), minlength=BINS * BINS).reshape(BINS, BINS)
    # OpenCV adds in float64, which is exact: a square is below 2^26, a photo has below 2^27 pixels.
    sums = [int(cv2.sumElems(plane)[0]) for plane in codes]
    squares = [int(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in codes]
    pixels = codes[0].size
    centred = [total - pixels * AB_OFFSET for total in sums]
    centred_squares = [
        square - 2 * AB_OFFSET * total + pixels * AB_OFFSET**2
        for total, square in zip(sums, squares, strict=True)
    ]
    return AbStatistics(
        pixels=pixels,
        L_code_sum=sums[0],
        L_code_square_sum=squares[0],
        code_sum=(centred[1], centred[2]),
        code_square_sum=(centred_squares[1], centred_squares[2]),
        histogram=histogram.tolist(),
    )


def merged(parts: Iterable[AbStatistics]) -> AbStatistics:
    """The statistics of all pixels of all parts."""
    pixels = 0
    moments = [0, 0, 0, 0, 0, 0]
    histogram = np.zeros((BINS, BINS), np.int64)
    for part in parts:
        pixels += part.pixels
        L_moments = (part.L_code_sum, part.L_code_square_sum)
        for i, value in enumerate((*L_moments, *part.code_sum, *part.code_square_sum)):
            moments[i] += value
        histogram += np.array(part.histogram, np.int64)
    return AbStatistics(
        pixels=pixels,
        L_code_sum=moments[0],
        L_code_square_sum=moments[1],
        code_sum=(moments[2], moments[3]),
        code_square_sum=(moments[4], moments[5]),
        histogram=histogram.tolist(),
    )


def less(whole: AbStatistics, parts: Iterable[AbStatistics]) -> AbStatistics:
    """The statistics of all pixels of `whole` but those of the parts."""
    away = merged(parts)
    return AbStatistics(
        pixels=whole.pixels - away.pixels,
        L_code_sum=whole.L_code_sum - away.L_code_sum,
        L_code_square_sum=whole.L_code_square_sum - away.L_code_square_sum,
        code_sum=(
            whole.code_sum[0] - away.code_sum[0],
            whole.code_sum[1] - away.code_sum[1],
        ),
        code_square_sum=(
            whole.code_square_sum[0] - away.code_square_sum[0],
            whole.code_square_sum[1] - away.code_square_sum[1],
        ),
        histogram=(np.array(whole.histogram) - np.array(away.histogram)).tolist(),
    )


def _cell(codes: UInt16[np.ndarray, "H W"], step: float) -> UInt16[np.ndarray, "H W"]:
    """Which cell of its axis each code falls in; sRGB colours are all within the outer ones."""
    cells = codes * np.float32(step / BIN_WIDTH)
    cells += np.float32(BINS / 2 - AB_OFFSET * step / BIN_WIDTH)
    return cells.astype(np.uint16)
