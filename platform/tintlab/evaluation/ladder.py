"""The likelihood ladder: how many bits the colours cost under ever better models.

    uniform          every bin equally likely                     knows nothing
    marginal         one histogram per channel, of training       knows which colours exist
    lightness        the same for each level of L: p(ab | L)      knows a position's lightness
    parallel         the parallel head: each position by itself   knows the photo's lightness
    autoregressive   the colorizer, teacher forced                knows the colours painted so far

All price the same thing: the tokens on the chroma grid of centre crops. The unit is bits per
dimension, a and b of one grid position being two dimensions whatever the bins, so joint and
factored bins compare.
The histograms take a and b to be independent, as the parallel head does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from tintlab.data.batches import Batch, eval_batches
from tintlab.data.shards import Shards
from tintlab.errors import EnvironmentFault
from tintlab.evaluation.calibration import Calibration
from tintlab.model.colorizer import Colorizer, evaluation_mode
from tintlab.settings import EvaluationConfig
from tintlab.training.losses import DIMENSIONS, bits_per_dim

LEVELS = 32
"""Equal steps of L in [0, 100], each with a histogram of its own."""
RUNGS = ("uniform", "marginal", "lightness", "parallel", "autoregressive")


@dataclass(frozen=True)
class Ladder:
    """Bits per dimension of each rung: the mean over photos, and every photo's own."""

    uniform: float
    marginal: float
    lightness: float
    parallel: float
    autoregressive: float
    ids: list[str]
    """The photos, in the order of `per_image`."""
    per_image: dict[str, Float64[np.ndarray, "images"]]
    """Rung -> bits per dimension of each photo."""
    calibration_error: dict[str, dict[str, float]]
    """`parallel`, `autoregressive` -> channel (a, b or ab) -> ECE, see `calibration`."""

    def means(self) -> dict[str, float]:
        """Rung -> mean bits per dimension, from the worst model to the best."""
        return {rung: float(getattr(self, rung)) for rung in self.per_image}


def ladder(model: Colorizer, shards: Shards, split: str, config: EvaluationConfig) -> Ladder:
    """Every rung on every photo of a split; the histograms are of the train split.

    Raises: EnvironmentFault: the split holds no photo.
    """
    counts = train_histogram(model, shards, config)
    of_colors, of_levels = marginal_bits(counts.sum(axis=0)), marginal_bits(counts)
    flat = uniform_bits(model)
    ids: list[str] = []
    rungs: dict[str, list[np.ndarray]] = {rung: [] for rung in RUNGS}
    device = next(model.parameters()).device
    channels = ("a", "b") if model.bins.channels == DIMENSIONS else ("ab",)
    calibrations = {rung: Calibration(len(channels)) for rung in ("parallel", "autoregressive")}
    with evaluating(model):
        for batch in eval_batches(shards, split, config.crop_px, config.batch_size):
            tokens = model.tokens(batch.ab.to(device))
            logits = model(batch.L.to(device), tokens)
            for rung, of in calibrations.items():
                of.add(getattr(logits, rung), tokens)
                price = bits_per_dim(getattr(logits, rung), tokens)
                rungs[rung].append(price.double().cpu().numpy())
            drawn = tokens.cpu()
            rungs["uniform"].append(np.full(len(batch.ids), flat))
            rungs["marginal"].append(bits_under(of_colors, drawn))
            rungs["lightness"].append(bits_given_level(of_levels, drawn, levels(model, batch.L)))
            ids += batch.ids
    if not ids:
        raise no_photos(split)
    per_image = {rung: np.concatenate(parts) for rung, parts in rungs.items()}
    means = {rung: float(values.mean()) for rung, values in per_image.items()}
    errors = {
        rung: dict(zip(channels, of.error(), strict=True)) for rung, of in calibrations.items()
    }
    return Ladder(**means, ids=ids, per_image=per_image, calibration_error=errors)


def teacher_forced(
    model: Colorizer, batch: Batch
) -> tuple[Float64[np.ndarray, "B"], Float64[np.ndarray, "B"]]:
    """Bits per dimension of a batch's tokens under the decoder and under the parallel head.

    Call inside `evaluating`.
    """
    device = next(model.parameters()).device
    tokens = model.tokens(batch.ab.to(device))
    logits = model(batch.L.to(device), tokens)
    autoregressive = bits_per_dim(logits.autoregressive, tokens)
    parallel = bits_per_dim(logits.parallel, tokens)
    return autoregressive.double().cpu().numpy(), parallel.double().cpu().numpy()


def uniform_bits(model: Colorizer) -> float:
    """Bits per dimension of guessing: log2(K) for each of C tokens, over two dimensions."""
    return model.bins.channels * log2(model.bins.count) / DIMENSIONS


def train_histogram(
    model: Colorizer, shards: Shards, config: EvaluationConfig
) -> Int64[np.ndarray, "levels C K"]:
    """How often each bin occurs at each level of lightness in the train split, on the same kind of
    crops that are scored."""
    device = next(model.parameters()).device
    channels, bins = model.bins.channels, model.bins.count
    counts = np.zeros(LEVELS * channels * bins, np.int64)
    with evaluating(model):
        for batch in eval_batches(shards, "train", config.crop_px, config.batch_size):
            tokens = model.tokens(batch.ab.to(device)).cpu().numpy()
            cell = levels(model, batch.L)[:, None] * channels + np.arange(channels)[:, None, None]
            counts += np.bincount((cell * bins + tokens).ravel(), minlength=len(counts))
    return counts.reshape(LEVELS, channels, bins)


def levels(model: Colorizer, L: Float[Tensor, "B 1 H W"]) -> Int64[np.ndarray, "B h w"]:
    """The level of each position of the chroma grid: the mean lightness of its block of pixels."""
    mean = F.avg_pool2d(model.padded(L), model.stride)[:, 0]  # (B, h, w)
    return (mean.double() * (LEVELS / 100)).long().clamp(0, LEVELS - 1).cpu().numpy()


def marginal_bits(counts: Int64[np.ndarray, "*of C K"]) -> Float64[np.ndarray, "*of C K"]:
    """The price of each bin in bits under add-one smoothed frequencies (Laplace's rule).

    Smoothed, so that a colour never seen in training costs much, but not infinitely much.
    """
    smoothed = counts.astype(np.float64) + 1.0
    return np.log2(smoothed.sum(axis=-1, keepdims=True)) - np.log2(smoothed)


def bits_under(
    price: Float64[np.ndarray, "C K"], tokens: Int[Tensor, "B C h w"]
) -> Float64[np.ndarray, "B"]:
    """Bits per dimension of each photo where every channel's bins have a fixed price in bits."""
    drawn = tokens.numpy()
    channels = np.arange(price.shape[0])[None, :, None, None]
    of_positions = price[channels, drawn].sum(axis=1)  # (B, h, w)
    return of_positions.mean(axis=(1, 2)) / DIMENSIONS


def bits_given_level(
    price: Float64[np.ndarray, "levels C K"],
    tokens: Int[Tensor, "B C h w"],
    level: Int64[np.ndarray, "B h w"],
) -> Float64[np.ndarray, "B"]:
    """As `bits_under`, where the price depends on the level of lightness of the position."""
    channels = np.arange(price.shape[1])[None, :, None, None]
    of_positions = price[level[:, None], channels, tokens.numpy()].sum(axis=1)  # (B, h, w)
    return of_positions.mean(axis=(1, 2)) / DIMENSIONS


@contextmanager
def evaluating(model: Colorizer) -> Iterator[None]:
    """The model without dropout and without gradients; each part's mode is restored afterwards."""
    with evaluation_mode(model), torch.no_grad():
        yield


def no_photos(split: str) -> EnvironmentFault:
    """The fault of a split that holds nothing to measure."""
    return EnvironmentFault(
        f"the {split} split holds no photo to evaluate on; prepare more photos "
        "(about one in ten goes to each of val and test)"
    )
