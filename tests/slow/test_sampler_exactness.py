"""The promise of the sampler, at the size at which it is made: 1,000 images and 3 seeds.

pytest tests/slow/test_sampler_exactness.py -s -m slow
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from figures import Figure
from torch import Tensor

from tintlab.model.colorizer import Colorizer
from tintlab.model.noise import gumbel_noise
from tintlab.model.sampler import sample
from tintlab.settings import BinsConfig, ModelConfig

IMAGES, BATCH, SEEDS = 1000, 125, (0, 1, 2)
ROWS, COLUMNS = 6, 5
BINS = BinsConfig(kind="factored", per_channel=16)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def built(dtype: torch.dtype, model: ModelConfig, bins: BinsConfig = BINS) -> Colorizer:
    """A model whose every layer matters: the zero-initialised ones are filled, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        colorizer = Colorizer(model, bins).double().eval()
        with torch.no_grad():
            for parameter in colorizer.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return colorizer.to(dtype)


def batches(dtype: torch.dtype, seed: int) -> Iterator[tuple[Tensor, list[int]]]:
    """1,000 random photos, and a seed for each."""
    generator = torch.Generator().manual_seed(1234)
    for first in range(0, IMAGES, BATCH):
        shape = (BATCH, 1, 4 * ROWS, 4 * COLUMNS)
        L = 100 * torch.rand(shape, generator=generator, dtype=torch.float64)
        yield L.to(dtype), [seed * IMAGES + first + image for image in range(BATCH)]


@pytest.mark.parametrize("attention", [0, 1])
def test_naive_and_cached_agree_in_float64_on_1000_images_and_3_seeds(
    attention: int, figure: Figure
) -> None:
    model = built(
        torch.float64,
        ModelConfig(
            depth=2, decoder_attention_blocks=attention, encoder_attention_blocks=attention
        ),
    )
    compared = mismatches = 0
    used: set[int] = set()
    for seed in SEEDS:
        for L, seeds in batches(torch.float64, seed):
            cached = sample(model, L, seeds=seeds)
            mismatches += int((cached != sample(model, L, seeds=seeds, naive=True)).sum())
            compared += cached.numel()
            used |= set(cached.unique().tolist())
    with_attention = "with" if attention else "without"
    figure(
        "Sampling",
        f"cached against naive sampler, float64, {with_attention} attention, 3 x 1,000 images",
        f"{mismatches} of {compared:,} tokens differ",
        "0",
    )
    assert compared == IMAGES * len(SEEDS) * ROWS * COLUMNS * 2
    assert mismatches == 0
    assert len(used) == 16  # a constant would agree with anything


def test_float32_differs_only_where_two_tokens_nearly_tie(figure: Figure) -> None:
    tolerance = 1e-4
    model = built(torch.float32, ModelConfig(depth=2, decoder_attention_blocks=1))
    compared = differing_images = 0
    widest = 0.0
    for seed in SEEDS:
        for L, seeds in batches(torch.float32, seed):
            cached = sample(model, L, seeds=seeds)
            naive = sample(model, L, seeds=seeds, naive=True)
            compared += cached.numel()
            differing = (cached != naive).flatten(1).any(dim=1)
            differing_images += int(differing.sum())
            if differing.any():
                gaps = first_gaps(model, L, seeds, cached, naive)
                widest = max(widest, float(gaps[differing].max()))
    figure(
        "Sampling",
        f"the same in float32, with attention ({compared:,} tokens)",
        f"{differing_images} of {IMAGES * len(SEEDS)} images differ, first at a tie within "
        f"{widest:.1e}",
        f"only at ties within {tolerance:g}",
    )
    assert widest < tolerance


def first_gaps(
    model: Colorizer, L: Tensor, seeds: list[int], cached: Tensor, naive: Tensor
) -> Tensor:
    """By how much the naive sampler preferred its token at the first place the two differ."""
    with torch.no_grad():
        logits = model.forward(L, naive).autoregressive.double()
    scores = logits + gumbel_noise(seeds, 2, 16, ROWS, COLUMNS)
    of_naive, of_cached = (
        scores.gather(2, tokens[:, :, None])[:, :, 0].movedim(1, -1).flatten(1)
        for tokens in (naive, cached)
    )  # (B, T * C) in the order of sampling
    first = (cached != naive).movedim(1, -1).flatten(1).int().argmax(dim=1, keepdim=True)
    return (of_naive - of_cached).abs().gather(1, first)[:, 0]


OPTIONS = {
    "chroma_stride": (1, 4),
    "encoder_norm": ("batch", "layer", "none"),
    "encoder_attention_blocks": (0, 2),
    "decoder_attention_blocks": (0, 1, 2),
    "dropout": (0.0, 0.5),
    "depth": (1, 3),
}


@pytest.mark.parametrize(
    "bins", [BINS, BinsConfig(kind="joint", joint_step=40)], ids=["ab", "pair"]
)
def test_no_combination_of_options_sees_the_future_or_changes_the_tokens(
    bins: BinsConfig, figure: Figure
) -> None:
    combinations = [
        dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())
    ]
    generator = torch.Generator().manual_seed(2)
    rows, columns = 3, 4
    for options in combinations:
        model = built(torch.float64, ModelConfig(**options), bins)
        side = model.stride
        L = 100 * torch.rand(
            (1, 1, rows * side, columns * side), generator=generator, dtype=torch.float64
        )
        assert torch.equal(sample(model, L, seeds=[3]), sample(model, L, seeds=[3], naive=True)), (
            options
        )
        channels = model.bins.channels
        count = rows * columns * channels
        tokens = torch.randint(model.bins.count, (1, channels, rows, columns), generator=generator)
        flat = tokens.movedim(1, -1).flatten(1).repeat(count, 1)
        changed = (flat + torch.eye(count, dtype=torch.int64)) % model.bins.count
        changed = changed.unflatten(1, (rows, columns, channels)).movedim(-1, 1)
        with torch.no_grad():
            cond = model.encode(L)
            before = model.decoder_logits(cond, tokens)
            after = model.decoder_logits(cond.expand(count, -1, -1, -1), changed)
        differs = (after != before).any(dim=2).movedim(1, -1).flatten(1)  # (changed, seen)
        assert not differs.tril().any(), options
    figure(
        "Sampling",
        f"{len(combinations)} combinations of options, {bins.kind} bins: causality, cached = naive",
        "0 break either",
        "0",
    )
