"""Exact samples from the colorizer.

A token is argmax(logits + temperature * Gumbel noise): a draw from softmax(logits / temperature)
(the Gumbel-max trick; Maddison et al. 2014, A* Sampling). All randomness is in the noise, a
function of each image's own seed (see `noise`), so the cached and the naive sampler can be compared
token by token, and an image's colours do not depend on which images share its batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from tintlab.errors import ConfigError, NotFinite
from tintlab.model.cached_decoder import CachedDecoder
from tintlab.model.colorizer import Colorizer, evaluation_mode
from tintlab.model.noise import SEEDS, gumbel_row

MAX_POSITIONS = 2**18
"""Largest chroma grid, 512 x 512: a photo of 2048 x 2048 px at stride 4. Every position is drawn
after the one before it, so a larger grid is hours of work and a mistake; colours need less."""


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
    """The token that logits + temperature * noise prefers; without noise, the most likely one.

    Args: top_p: only the smallest set of most likely bins whose probability reaches this is
        considered (Holtzman et al. 2020, sec. 3.1); 1 considers all.
    """
    scores = logits.double()
    if noise is not None:
        pushed = scores + temperature * noise
        if top_p < 1.0:
            likely = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
            ordered, order = likely.softmax(dim=-1).sort(dim=-1, descending=True)
            # A bin is dropped when those before it already reach top_p: the first never is.
            dropped = ordered.cumsum(dim=-1) - ordered >= top_p
            pushed = pushed.masked_fill(
                torch.zeros_like(dropped).scatter(-1, order, dropped), -torch.inf
            )
        scores = pushed
    best = scores.max(dim=-1)
    return Chosen(best.indices, best.values)


NoiseOfRow = Callable[[int], Float64[Tensor, "w C B K"]]
RowDone = Callable[[int, int], None]
"""(rows done, rows in all)."""


class Rule(NamedTuple):
    """How a token is chosen from its logits."""

    temperature: float = 1.0
    """0 takes the most likely bin at every step and uses no noise."""
    top_p: float = 1.0
    """See `choose`."""

    def check(self) -> None:
        """Raises: ConfigError: a value is out of range."""
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be 0 or a positive number, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(
                f"top_p must be above 0 and at most 1, got {self.top_p}; 1 keeps every bin"
            )


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
        noise: used instead of the seeds' own (`noise.gumbel_noise`).
        naive: one whole decoder forward for every token, the reference. The default computes each
            activation once, and gives the same tokens.
        row_done: told after each row of the grid, for a progress bar.
    Raises: ConfigError: temperature, top_p or a seed is out of range, or the grid is too large.
        NotFinite: the model's logits are not finite.
    """
    rule = Rule(temperature, top_p)
    _check(model, L, seeds, rule)
    with _sampling(model, L):
        cond = model.encode(L)
        of_row = _noise(model, cond, seeds, 1) if noise is None else _given(model, cond, noise)
        tokens = (_naive if naive else _cached)(model, cond, of_row, rule, row_done)
    return tokens.clone()  # outside inference mode, so that it may be used in training


def sample_many(
    model: Colorizer,
    L: Float[Tensor, "B 1 H W"],
    num_samples: int,
    *,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    row_done: RowDone | None = None,
) -> Int64[Tensor, "B S C h w"]:
    """Several colourings of each photo, which is encoded once.

    Args: num_samples: S; the first is what `sample` draws for the same seed, and more samples
        change none of those before them. The others: see `sample`.
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples must be at least 1, got {num_samples}")
    rule = Rule(temperature, top_p)
    _check(model, L, seeds, rule)
    with _sampling(model, L):
        cond = model.encode(L).repeat_interleave(num_samples, dim=0)
        of_row = _noise(model, cond, seeds, num_samples)
        tokens = _cached(model, cond, of_row, rule, row_done)
    return tokens.clone().unflatten(0, (len(L), num_samples))  # see `sample`


class Best(NamedTuple):
    """The most likely of several samples of each photo."""

    tokens: Int64[Tensor, "B C h w"]
    log_likelihood: Float64[Tensor, "B S"]
    """Of every sample, in nats, under the model as it is, whatever temperature drew it."""


def best_of(
    model: Colorizer,
    L: Float[Tensor, "B 1 H W"],
    num_samples: int,
    *,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    row_done: RowDone | None = None,
) -> Best:
    """Of `num_samples` colourings of each photo, the one the model finds most likely.

    No longer a draw from the model: the more samples, the nearer to its mode, and the greyer.
    Args: see `sample_many`.
    """
    tokens = sample_many(
        model,
        L,
        num_samples,
        seeds=seeds,
        temperature=temperature,
        top_p=top_p,
        row_done=row_done,
    )
    with _sampling(model, L):
        cond = model.encode(L)
        of_samples = [log_likelihood(model, cond, one) for one in tokens.unbind(1)]
    likelihood = torch.stack(of_samples, dim=1)
    best = likelihood.argmax(dim=1)
    return Best(tokens[torch.arange(len(tokens), device=best.device), best], likelihood.clone())


def log_likelihood(
    model: Colorizer, cond: Float[Tensor, "B D h w"], tokens: Int64[Tensor, "B C h w"]
) -> Float64[Tensor, "B"]:
    """log p(tokens | L) of each photo in nats, from one teacher-forced forward."""
    logits = model.decoder_logits(cond, tokens)
    nats = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(0, 1), reduction="none")
    return -nats.double().unflatten(0, tokens.shape[:2]).sum(dim=(1, 2, 3))


@contextmanager
def _sampling(model: Colorizer, L: Tensor) -> Iterator[None]:
    """Evaluation mode for every part of the model, no gradients, full precision; then as before."""
    # Without autocast, which casts some operations and not others: nothing would be exact.
    # Without TF32, which cuDNN's convolutions use and the cached sampler's products do not.
    full = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=False, allow_tf32=False
    )
    uncast = torch.autocast(L.device.type, enabled=False)
    with evaluation_mode(model), torch.inference_mode(), uncast, full:
        yield


def _check(model: Colorizer, L: Tensor, seeds: Sequence[int], rule: Rule) -> None:
    rule.check()
    if len(seeds) != len(L):
        raise ValueError(f"sample needs one seed for each of {len(L)} images, got {len(seeds)}")
    for seed in seeds:
        if not 0 <= seed < SEEDS:
            raise ConfigError(f"a seed must be in [0, 2^64), got {seed}")
    rows, columns = (-(-side // model.stride) for side in L.shape[2:])
    if rows * columns > MAX_POSITIONS:
        raise ConfigError(
            f"a photo of {L.shape[3]}x{L.shape[2]} px has a chroma grid of {columns}x{rows} = "
            f"{rows * columns} positions, the limit is {MAX_POSITIONS}; sample a smaller copy"
        )


def _noise(model: Colorizer, cond: Tensor, seeds: Sequence[int], num_samples: int) -> NoiseOfRow:
    """The seeds' own noise, a row at a time."""
    columns, bins = cond.shape[3], model.bins

    def of_row(row: int) -> Tensor:
        drawn = gumbel_row(seeds, row, columns, bins.channels, bins.count, num_samples)
        return drawn.to(cond.device).permute(1, 2, 0, 3)

    return of_row


def _given(model: Colorizer, cond: Tensor, noise: Tensor) -> NoiseOfRow:
    """Noise that the caller brought."""
    wanted = (len(cond), model.bins.channels, model.bins.count, *cond.shape[2:])
    if noise.shape != wanted:
        raise ValueError(f"noise must be {wanted}, got {tuple(noise.shape)}")
    return lambda row: noise[:, :, :, row].to(cond.device).permute(3, 1, 0, 2)


def _cached(
    model: Colorizer, cond: Tensor, noise: NoiseOfRow, rule: Rule, row_done: RowDone | None
) -> Int64[Tensor, "B C h w"]:
    """Every activation once: see cached_decoder."""
    rows, columns = cond.shape[2:]
    channels = range(model.bins.channels)
    decoder = CachedDecoder(model.decoder, cond)
    done = []
    for row in range(rows):
        of_row = noise(row) if rule.temperature else None
        # Plain sampling is one argmax: the noise is added by the product that gives the logits.
        filtered = None if rule.top_p == 1.0 else of_row
        pushed = None if of_row is None or filtered is not None else rule.temperature * of_row
        decoder.start_row(pushed)
        scores = []
        for column in range(columns):
            decoder.step()
            for channel in channels:
                score = decoder.scores(channel)
                if filtered is None:
                    token = score.argmax(dim=1)
                else:
                    token = choose(score, filtered[column, channel], *rule).token
                decoder.write(channel, token)
                scores.append(score)
        _check_finite(torch.stack(scores).amax(dim=-1), row)
        done.append(decoder.row_tokens())
        if row_done is not None:
            row_done(row + 1, rows)
    return torch.stack(done, dim=2)


def _naive(
    model: Colorizer, cond: Tensor, noise: NoiseOfRow, rule: Rule, row_done: RowDone | None
) -> Int64[Tensor, "B C h w"]:
    """The whole decoder for every token; knows nothing of its inside."""
    (batch, _, rows, columns), channels = cond.shape, model.bins.channels
    tokens = torch.zeros((batch, channels, rows, columns), dtype=torch.int64, device=cond.device)
    for row in range(rows):
        of_row = noise(row) if rule.temperature else None
        scores = []
        for column in range(columns):
            for channel in range(channels):
                logits = model.decoder_logits(cond, tokens)[:, channel, :, row, column]
                here = None if of_row is None else of_row[column, channel]
                token, score = choose(logits, here, *rule)
                tokens[:, channel, row, column] = token
                scores.append(score)
        _check_finite(torch.stack(scores), row)
        if row_done is not None:
            row_done(row + 1, rows)
    return tokens


def _check_finite(scores: Tensor, row: int) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise NotFinite(
            f"the model's logits are not finite in row {row} of the chroma grid; "
            "its weights are damaged or its training diverged: use another checkpoint"
        )
