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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int16, Int64
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


@dataclass(frozen=True)
class Priced:
    """What one photo's colours cost the model, and what other rungs need to price them."""

    id: str
    autoregressive: float
    """Bits per dimension under the decoder."""
    parallel: float
    """Bits per dimension under the parallel head."""
    tokens: Int16[np.ndarray, "C h w"]
    levels: Int16[np.ndarray, "h w"]
    """Of lightness, see `levels`."""
    calibration: dict[str, Calibration]
    """`parallel`, `autoregressive` -> what is counted of this photo alone."""


def ladder(model: Colorizer, shards: Shards, split: str, config: EvaluationConfig) -> Ladder:
    """Every rung on every photo of a split; the histograms are of the train split.

    Raises: EnvironmentFault: the split holds no photo.
    """
    counts = train_histogram(model, shards, config)
    photos: list[Priced] = []
    with evaluating(model):
        for batch in eval_batches(shards, split, config.crop_px, config.batch_size):
            photos += priced(model, batch)
    if not photos:
        raise no_photos(split)
    return ladder_of(model, photos, counts)


def priced(model: Colorizer, batch: Batch) -> list[Priced]:
    """Each photo of a batch by itself. Call inside `evaluating`."""
    like = next(model.parameters())
    tokens = model.tokens(batch.ab.to(like))
    logits = model(batch.L.to(like), tokens)
    of_rungs = {"parallel": logits.parallel, "autoregressive": logits.autoregressive}
    bits = {rung: bits_per_dim(of, tokens).double().tolist() for rung, of in of_rungs.items()}
    level = levels(model, batch.L)
    photos = []
    for i, photo in enumerate(batch.ids):
        calibration = {rung: Calibration(model.bins.channels) for rung in of_rungs}
        for rung, of in of_rungs.items():
            calibration[rung].add(of[i : i + 1], tokens[i : i + 1])
        photos.append(
            Priced(
                id=photo,
                autoregressive=bits["autoregressive"][i],
                parallel=bits["parallel"][i],
                tokens=tokens[i].cpu().numpy().astype(np.int16),
                levels=level[i].astype(np.int16),
                calibration=calibration,
            )
        )
    return photos


def ladder_of(
    model: Colorizer, photos: Sequence[Priced], counts: Int64[np.ndarray, "levels C K"]
) -> Ladder:
    """Every rung of photos that are priced, in their order.

    Args: counts: of the train split, see `train_histogram`.
    """
    of_colors, of_levels = marginal_bits(counts.sum(axis=0)), marginal_bits(counts)
    marginal, lightness = [], []
    errors = {rung: Calibration(model.bins.channels) for rung in ("parallel", "autoregressive")}
    for photo in photos:
        drawn = torch.from_numpy(photo.tokens.astype(np.int64))[None]
        marginal += bits_under(of_colors, drawn).tolist()
        level = photo.levels.astype(np.int64)[None]
        lightness += bits_given_level(of_levels, drawn, level).tolist()
        for rung, of in errors.items():
            of.take(photo.calibration[rung])
    per_image = {
        "uniform": np.full(len(photos), uniform_bits(model)),
        "marginal": np.array(marginal),
        "lightness": np.array(lightness),
        "parallel": np.array([photo.parallel for photo in photos]),
        "autoregressive": np.array([photo.autoregressive for photo in photos]),
    }
    channels = ("a", "b") if model.bins.channels == DIMENSIONS else ("ab",)
    return Ladder(
        **{rung: float(values.mean()) for rung, values in per_image.items()},
        ids=[photo.id for photo in photos],
        per_image=per_image,
        calibration_error={
            rung: dict(zip(channels, of.error(), strict=True)) for rung, of in errors.items()
        },
    )


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
    counts = np.zeros((LEVELS, model.bins.channels, model.bins.count), np.int64)
    with evaluating(model):
        for batch in eval_batches(shards, "train", config.crop_px, config.batch_size):
            counts += histogram(model, batch)
    return counts


def histogram(model: Colorizer, batch: Batch) -> Int64[np.ndarray, "levels C K"]:
    """How often each bin occurs at each level of lightness in some photos."""
    channels, bins = model.bins.channels, model.bins.count
    tokens = model.tokens(batch.ab.to(next(model.parameters()))).cpu().numpy()
    cell = levels(model, batch.L)[:, None] * channels + np.arange(channels)[:, None, None]
    counts = np.bincount((cell * bins + tokens).ravel(), minlength=LEVELS * channels * bins)
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
