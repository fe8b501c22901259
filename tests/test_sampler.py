"""The sampler: exact, repeatable, and independent of which photos share a batch."""

import pytest
import torch
from torch import Tensor

from tintlab.config import BinsConfig, ModelConfig
from tintlab.errors import ConfigError, IntegrityError
from tintlab.model.colorizer import Colorizer
from tintlab.model.sampler import choose, gumbel_noise, sample

BINS = {
    "factored": BinsConfig(kind="factored", per_channel=8),
    "joint": BinsConfig(kind="joint", joint_step=40),
}


def built(bins: str = "factored", dtype: torch.dtype = torch.float64, **options: int) -> Colorizer:
    """A model whose every layer matters: the zero-initialised ones are filled, too."""
    generator = torch.Generator().manual_seed(0)
    config = ModelConfig(depth=3, **options)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Colorizer(config, BINS[bins]).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise.to(dtype), alpha=0.1)
    return model


def photos(batch: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return 100 * torch.rand((batch, 1, height, width), generator=generator, dtype=dtype)


@pytest.mark.parametrize("bins", ["factored", "joint"])
@pytest.mark.parametrize("attention", [0, 1, 3])
def test_cached_and_naive_samplers_draw_the_same_tokens(bins: str, attention: int) -> None:
    model = built(bins, decoder_attention_blocks=attention, encoder_attention_blocks=attention)
    L, seeds = photos(3, 18, 27), [4, 5, 6]  # a 5 x 7 grid, after padding
    cached = sample(model, L, seeds=seeds)
    assert torch.equal(cached, sample(model, L, seeds=seeds, naive=True))
    assert cached.unique().numel() > 4  # a constant would agree with anything


@pytest.mark.parametrize("attention", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_cached_and_naive_agree_under_temperature_and_top_p(attention: int, stride: int) -> None:
    model = built(decoder_attention_blocks=attention, chroma_stride=stride)
    L = photos(2, 5, 6)
    for options in ({"temperature": 0.0}, {"temperature": 0.5, "top_p": 0.6}):
        cached = sample(model, L, seeds=[1, 2], **options)  # type: ignore[arg-type]
        naive = sample(model, L, seeds=[1, 2], naive=True, **options)  # type: ignore[arg-type]
        assert torch.equal(cached, naive)


@pytest.mark.parametrize("bins", ["factored", "joint"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_tokens_are_what_one_teacher_forced_forward_prefers(bins: str, temperature: float) -> None:
    # Independent of both samplers: given its own tokens, the decoder must choose them again.
    model = built(bins, decoder_attention_blocks=1)
    L, seeds = photos(2, 32, 24), [8, 9]
    tokens = sample(model, L, seeds=seeds, temperature=temperature)
    with torch.no_grad():
        logits = model.forward(L, tokens).autoregressive
    if temperature:
        noise = gumbel_noise(seeds, model.bins.channels, model.bins.count, 8, 6)
        logits = logits / temperature + noise
    assert torch.equal(logits.argmax(dim=2), tokens)


def test_float32_differs_from_naive_only_where_two_tokens_nearly_tie() -> None:
    model = built("factored", torch.float32, decoder_attention_blocks=1)
    L, seeds = photos(4, 32, 32, torch.float32), range(4)
    tokens = sample(model, L, seeds=seeds)
    with torch.no_grad():
        logits = model.forward(L, tokens).autoregressive
    scores = logits.double() + gumbel_noise(seeds, 2, 8, 8, 8)
    lost = scores.max(dim=2).values - scores.gather(2, tokens[:, :, None])[:, :, 0]
    assert lost.max() < 1e-4


def test_a_batch_of_n_equals_n_of_one() -> None:
    model = built(decoder_attention_blocks=1, encoder_attention_blocks=1)
    L, seeds = photos(4, 16, 20), [3, 1, 4, 1]
    together = sample(model, L, seeds=seeds)
    for image, seed in enumerate(seeds):
        alone = sample(model, L[image : image + 1], seeds=[seed])
        assert torch.equal(alone[0], together[image])


def test_a_seed_decides_and_global_randomness_plays_no_part() -> None:
    model, L = built(), photos(1, 16, 16).expand(3, -1, -1, -1)
    before = torch.get_rng_state()
    first = sample(model, L, seeds=[1, 2, 1])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(first, sample(model, L, seeds=[1, 2, 1]))
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    noise = gumbel_noise([1, 2, 1], 2, 8, 4, 4)
    assert torch.equal(first, sample(model, L, seeds=[0, 0, 0], noise=noise))


def test_choices_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64)
    draws, temperature = 40_000, 1.7
    noise = gumbel_noise([0], 1, 4, draws, 1)[0, 0, :, :, 0].T  # (draws, K)
    token, _ = choose(logits.expand(draws, -1), noise, temperature, top_p=1.0)
    observed = token.bincount(minlength=4) / draws
    expected = (logits / temperature).softmax(dim=0)
    four_sigma = 4 * (expected * (1 - expected) / draws).sqrt()
    assert ((observed - expected).abs() < four_sigma).all()


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.05, {3}), (0.6, {3}), (0.7, {1, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])  # probabilities 0.09, 0.24, 0.03, 0.64
    noise = gumbel_noise([0], 1, 4, 4_000, 1)[0, 0, :, :, 0].T
    token, _ = choose(logits.expand(4_000, -1), noise, 1.0, top_p)
    assert set(token.tolist()) == kept


def test_sampling_ignores_dropout_and_leaves_the_model_as_it_was() -> None:
    model = Colorizer(ModelConfig(depth=1, dropout=0.5, encoder_norm="batch"), BINS["factored"])
    model.train()
    model.encoder.norm_out.eval()  # a frozen part stays frozen
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    L = photos(2, 16, 16, torch.float32)
    first = sample(model, L, seeds=[1, 2])
    assert model.training
    assert not model.encoder.norm_out.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(first, sample(model.eval(), L, seeds=[1, 2]))
    model.train()
    model.forward(L, first).autoregressive.sum().backward()  # the tokens are usable in training


@pytest.mark.parametrize("naive", [False, True])
def test_logits_that_are_not_finite_are_refused(naive: bool) -> None:
    model = built()
    with torch.no_grad():
        model.decoder.head.hidden.weight[0, 0] = float("nan")
    model.train()
    with pytest.raises(IntegrityError, match="logits are not finite in row 0"):
        sample(model, photos(1, 8, 8), seeds=[0], naive=naive)
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or a positive number, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample(built(), photos(1, 8, 8), seeds=[0], **options)  # type: ignore[arg-type]


def test_every_image_needs_its_seed() -> None:
    with pytest.raises(ValueError, match="one seed for each of 2 images, got 1"):
        sample(built(), photos(2, 8, 8), seeds=[0])


def test_noise_of_another_grid_is_refused() -> None:
    noise = gumbel_noise([0], 2, 8, 3, 3)
    with pytest.raises(ValueError, match=r"noise must be \(1, 2, 8, 2, 2\), got \(1, 2, 8, 3, 3\)"):
        sample(built(), photos(1, 8, 8), seeds=[0], noise=noise)


def test_rows_are_reported_as_they_are_done() -> None:
    done: list[tuple[int, int]] = []
    sample(
        built(), photos(1, 12, 8), seeds=[0], row_done=lambda row, rows: done.append((row, rows))
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
