"""Exact samples from the colorizer.

A token is argmax(logits / temperature + Gumbel noise): a draw from the softmax (the Gumbel-max
trick; Maddison et al. 2014, A* Sampling). All randomness is in the noise, which is drawn
before anything else from each image's own seed, so the cached and the naive sampler can be compared
token by token, and an image's colours do not depend on which images share its batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tintlab.errors import ConfigError, IntegrityError
from tintlab.model.cached_decoder import CachedDecoder
from tintlab.model.colorizer import Colorizer


def gumbel_noise(
    seeds: Sequence[int], channels: int, bins: int, rows: int, columns: int
) -> Float64[Tensor, "B C K h w"]:
    """Standard Gumbel noise, one tensor (C, K, h, w) per image from that image's seed alone.

    Drawn on the CPU in float64, so that it is the same on every device and for every precision.
    """
    images = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(
            (channels, bins, rows, columns), generator=generator, dtype=torch.float64
        )
        # rand may give 0, whose double logarithm is infinite.
        images.append(-torch.log(-torch.log(uniform.clamp(min=torch.finfo(torch.float64).tiny))))
    return torch.stack(images)


class Chosen(NamedTuple):
    """One token per image, and its score: not finite if the logits were not."""

    token: Int64[Tensor, "B"]
    score: Float64[Tensor, "B"]


def choose(
    logits: Float[Tensor, "B K"],
    noise: Float64[Tensor, "B K"] | None,
    temperature: float,
    top_p: float,
) -> Chosen:
    """The token that logits / temperature + noise prefers; without noise, the most likely one.

    Args: top_p: only the smallest set of most likely bins whose probability reaches this is
        considered (Holtzman et al. 2020, sec. 3.1); 1 considers all.
    """
    scores = logits.double()
    if noise is not None:
        scores = scores / temperature
        if top_p < 1.0:
            ordered, order = scores.softmax(dim=-1).sort(dim=-1, descending=True)
            # A bin is dropped when those before it already reach top_p: the first never is.
            dropped = ordered.cumsum(dim=-1) - ordered >= top_p
            scores = scores.masked_fill(
                torch.zeros_like(dropped).scatter(-1, order, dropped), -torch.inf
            )
        scores = scores + noise
    best = scores.max(dim=-1)
    return Chosen(best.indices, best.values)


Choose = Callable[[Tensor, int, int, int], Chosen]
"""(logits (B, K), channel, row, column) -> tokens."""
RowDone = Callable[[int, int], None]
"""(rows done, rows in all)."""


def sample(
    model: Colorizer,
    L: Float[Tensor, "B 1 H W"],
    *,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    noise: Float64[Tensor, "B C K h w"] | None = None,
    naive: bool = False,
    row_done: RowDone | None = None,
) -> Int64[Tensor, "B C h w"]:
    """Draw the tokens of each photo, in evaluation mode and without gradients.

    Args: seeds: one for each image; equal seeds on equal photos give equal tokens.
        temperature: 0 takes the most likely bin at every step and uses no noise.
        top_p: see `choose`.
        noise: used instead of the seeds' own (`gumbel_noise`).
        naive: one whole decoder forward for every token, the reference. The default computes each
            activation once, and gives the same tokens.
        row_done: told after each row of the grid, for a progress bar.
    Raises: ConfigError: temperature or top_p is out of range.
        IntegrityError: the model's logits are not finite.
    """
    if not 0.0 <= temperature < float("inf"):
        raise ConfigError(f"temperature must be 0 or a positive number, got {temperature}")
    if not 0.0 < top_p <= 1.0:
        raise ConfigError(f"top_p must be above 0 and at most 1, got {top_p}; 1 keeps every bin")
    if len(seeds) != len(L):
        raise ValueError(f"sample needs one seed for each of {len(L)} images, got {len(seeds)}")

    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            cond = model.encode(L)
            wanted = (len(L), model.bins.channels, model.bins.count, *cond.shape[2:])
            if temperature == 0.0:
                noise = None
            elif noise is None:
                noise = gumbel_noise(seeds, *wanted[1:])
            elif noise.shape != wanted:
                raise ValueError(f"noise must be {wanted}, got {tuple(noise.shape)}")
            if noise is not None:  # (h, w, C, B, K): one position and channel is one block
                noise = noise.to(cond.device).permute(3, 4, 1, 0, 2).contiguous()

            def chosen(logits: Tensor, channel: int, row: int, column: int) -> Chosen:
                here = None if noise is None else noise[row, column, channel]
                return choose(logits, here, temperature, top_p)

            draw = _naive if naive else _cached
            tokens = draw(model, cond, chosen, row_done)
    finally:
        for module in training:
            module.training = True
    return tokens.clone()  # outside inference mode, so that it may be used in training


def _cached(
    model: Colorizer, cond: Tensor, choose_at: Choose, row_done: RowDone | None
) -> Int64[Tensor, "B C h w"]:
    """Every activation once: see cached_decoder."""
    (batch, _, rows, columns), channels = cond.shape, model.bins.channels
    head = model.decoder.head
    decoder = CachedDecoder(model.decoder, cond)
    tokens = torch.zeros((batch, channels, rows, columns), dtype=torch.int64, device=cond.device)
    for row in range(rows):
        decoder.start_row()
        scores = []
        for column in range(columns):
            hidden = head.read(decoder.step())
            here: list[Tensor] = []
            for channel in range(channels):
                logits = head.logits(hidden[channel], here)
                token, score = choose_at(logits, channel, row, column)
                here.append(token)
                scores.append(score)
                tokens[:, channel, row, column] = token
            decoder.write(here)
        _check_finite(torch.stack(scores), row)
        if row_done is not None:
            row_done(row + 1, rows)
    return tokens


def _naive(
    model: Colorizer, cond: Tensor, choose_at: Choose, row_done: RowDone | None
) -> Int64[Tensor, "B C h w"]:
    """The whole decoder for every token; knows nothing of its inside."""
    (batch, _, rows, columns), channels = cond.shape, model.bins.channels
    tokens = torch.zeros((batch, channels, rows, columns), dtype=torch.int64, device=cond.device)
    for row in range(rows):
        scores = []
        for column in range(columns):
            for channel in range(channels):
                logits = model.decoder_logits(cond, tokens)[:, channel, :, row, column]
                token, score = choose_at(logits, channel, row, column)
                tokens[:, channel, row, column] = token
                scores.append(score)
        _check_finite(torch.stack(scores), row)
        if row_done is not None:
            row_done(row + 1, rows)
    return tokens


def _check_finite(scores: Tensor, row: int) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise IntegrityError(
            f"the model's logits are not finite in row {row} of the chroma grid; "
            "its weights are damaged or its training diverged: use another checkpoint"
        )
