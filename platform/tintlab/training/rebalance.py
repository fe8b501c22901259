"""How much more a rare colour counts than a common one: class rebalancing.

    w(q) = 1 / ((1 - lambda) p(q) + lambda / Q),  scaled so that its mean under p is 1

where p is how often each colour occurs in the train split, smoothed over neighbouring colours.
Without it a model learns what is common, and most of every photo is nearly grey.

The weight belongs to a position's colour, a and b together, and multiplies the cross-entropies of
all its tokens. So factored bins learn the rebalanced joint distribution, as joint bins do, and a
photo's plain bits per dimension stay what is reported.

Source: Zhang et al. 2016, Colorful Image Colorization, sec. 2.2, eq. 4.
"""

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from tintlab.color.bins import AB_LIMIT, Bins
from tintlab.data.shard_format.ab_statistics import BIN_WIDTH, BINS, AbStatistics
from tintlab.errors import ConfigError

UNIFORM_SHARE = 0.5
"""lambda, Zhang et al. 2016, sec. 2.2."""
SIGMA_AB = 5.0
"""Width of the smoothing in ab units; the same place."""
FINEST_BIN_AB = BIN_WIDTH / 4
"""Narrower bins are refused: the smoothed statistics, in cells of 10, hold nothing so fine."""
POINTS_PER_CELL = 20
"""On each axis: a cell's pixels are taken to be spread evenly over it."""


def color_weights(bins: Bins, statistics: AbStatistics, strength: float) -> Float32[Tensor, "Q"]:
    """The weight of every colour of the bins; the mean over the train split's pixels is 1.

    Args: strength: 0 gives 1 for every colour, 1 what the formula says, between them the mixture.
    Raises: ConfigError: the statistics are of no photo, are not what they say, or are too coarse
        for these bins.
    """
    occurrence = color_histogram(bins, statistics)
    shown = bins.displayable() | (occurrence > 0)
    centers = bins.color_centers()[shown].double()
    nearness = torch.exp(-torch.cdist(centers, centers).square() / (2 * SIGMA_AB**2))
    spread = nearness / nearness.sum(dim=0)  # each colour's share is kept whole
    smoothed = spread @ occurrence[shown]
    # A colour that no screen shows never occurs, but the area mean of a block may fall there.
    probability = torch.zeros(bins.color_count, dtype=torch.float64)
    probability[shown] = smoothed
    weights = 1 / ((1 - UNIFORM_SHARE) * probability + UNIFORM_SHARE / int(shown.sum()))
    weights = weights / (weights * probability).sum()
    return (1 + strength * (weights - 1)).float()


def color_histogram(bins: Bins, statistics: AbStatistics) -> Float64[Tensor, "Q"]:
    """The share of the train split's pixels that has each colour of the bins.

    Raises: see `color_weights`.
    """
    counts = torch.tensor(statistics.histogram, dtype=torch.float64)
    if counts.shape != (BINS, BINS) or counts.sum() != statistics.pixels or not counts.any():
        raise ConfigError(
            f"loss.rebalance needs the train split's ab statistics, a {BINS}x{BINS} histogram of "
            f"{statistics.pixels} pixels, got {list(counts.shape)} of {counts.sum().item():g}; "
            "prepare the photos again, or set loss.rebalance to 0"
        )
    narrowest = float(torch.pdist(bins.centers).min())
    if narrowest < FINEST_BIN_AB:
        raise ConfigError(
            f"loss.rebalance cannot weigh bins of {narrowest:.3g} ab units by the data set's "
            f"statistics, whose cells are {BIN_WIDTH:g} wide; use bins of {FINEST_BIN_AB:g} or "
            "more (fewer bins.per_channel, larger bins.joint_step), or set loss.rebalance to 0"
        )
    points = BINS * POINTS_PER_CELL
    axis = (torch.arange(points) + 0.5) * (BIN_WIDTH / POINTS_PER_CELL) - AB_LIMIT
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None]  # (1, 2, points, points)
    color = bins.colors(bins.quantize(plane)).flatten()
    share = counts / counts.sum() / POINTS_PER_CELL**2
    share = share.repeat_interleave(POINTS_PER_CELL, 0).repeat_interleave(POINTS_PER_CELL, 1)
    return share.flatten().new_zeros(bins.color_count).index_add(0, color, share.flatten())
