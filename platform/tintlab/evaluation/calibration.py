"""Whether a bin that a model calls 70 % likely is right 70 % of the time."""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

CONFIDENCE_BINS = 15
"""As in Guo et al. 2017, sec. 3."""


class Calibration:
    """Expected calibration error of the most likely bin, of each token of a position by itself.

        ECE = sum_m n_m / n |accuracy_m - confidence_m|

    over 15 equal intervals of the confidence, the highest probability of a position. Autoregressive
    probabilities are those given the true tokens before: what is measured is each step, not whether
    whole samples are as varied as photos.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3.
    """

    def __init__(self, channels: int) -> None:
        self.positions: Int64[np.ndarray, "C M"] = np.zeros((channels, CONFIDENCE_BINS), np.int64)
        self.confidence: Float64[np.ndarray, "C M"] = np.zeros((channels, CONFIDENCE_BINS))
        self.right: Int64[np.ndarray, "C M"] = np.zeros((channels, CONFIDENCE_BINS), np.int64)

    def add(self, logits: Float[Tensor, "B C K h w"], tokens: Int[Tensor, "B C h w"]) -> None:
        """Count some photos."""
        best = torch.softmax(logits.double(), dim=2).max(dim=2)
        # (0, 1/15], (1/15, 2/15], ...
        interval = (best.values * CONFIDENCE_BINS).ceil().long() - 1
        interval = interval.clamp(0, CONFIDENCE_BINS - 1)
        for channel in range(len(self.positions)):
            of = interval[:, channel].flatten().cpu().numpy()
            sure = best.values[:, channel].flatten().cpu().numpy()
            hit = (best.indices == tokens)[:, channel].flatten().cpu().numpy()
            self.positions[channel] += np.bincount(of, minlength=CONFIDENCE_BINS)
            self.confidence[channel] += np.bincount(of, sure, CONFIDENCE_BINS)
            self.right[channel] += np.bincount(of[hit], minlength=CONFIDENCE_BINS)

    def take(self, other: "Calibration") -> None:
        """Count what another has counted, too."""
        self.positions += other.positions
        self.confidence += other.confidence
        self.right += other.right

    def error(self) -> list[float]:
        """ECE of each channel in [0, 1]; `nan` where nothing was counted."""
        of_channels = []
        pairs = zip(self.positions, self.right, self.confidence, strict=True)
        for positions, right, confidence in pairs:
            total = int(positions.sum())
            gap = float(np.abs(right - confidence).sum())  # n_m cancels within the sum
            of_channels.append(gap / total if total else float("nan"))
        return of_channels
