"""The sampler: exact, repeatable, and independent of which photos share a batch."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tintlab.errors import ConfigError, IntegrityError
from tintlab.model import sampler as sampler_module
from tintlab.model.cached_decoder import CachedDecoder
from tintlab.model.colorizer import Colorizer
from tintlab.model.noise import gumbel_noise, gumbel_row
from tintlab.model.sampler import best_of, choose, sample, sample_many
from tintlab.settings import BinsConfig, ModelConfig
from tintlab.training.losses import bits_per_dim

BINS = {
    "factored": BinsConfig(kind="factored", per_channel=8),
    "joint": BinsConfig(kind="joint", joint_step=40),
}


def built(
    bins: str = "factored", dtype: torch.dtype = torch.float64, **options: object
) -> Colorizer:
    """A model whose every layer matters: the zero-initialised ones are filled, too."""
    generator = torch.Generator().manual_seed(0)
    config = ModelConfig(**{"depth": 3, **options})  # type: ignore[arg-type]
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


# ---- noise


def test_noise_of_a_row_is_a_function_of_seed_sample_and_row_alone() -> None:
    whole = gumbel_noise([7, 8], 2, 5, rows=4, columns=3)
    assert whole.shape == (2, 2, 5, 4, 3)
    for row in (3, 0, 2):
        alone = gumbel_row([8], row, 3, 2, 5)[0]  # (w, C, K), another company and another order
        assert torch.equal(alone.permute(1, 2, 0), whole[1, :, :, row])
    of_samples = gumbel_row([7, 8], 1, 3, 2, 5, num_samples=3).unflatten(0, (2, 3))
    assert torch.equal(of_samples[0, 0].permute(1, 2, 0), whole[0, :, :, 1])
    assert torch.equal(of_samples[1], gumbel_row([8], 1, 3, 2, 5, num_samples=3))
    flat = torch.cat((whole.flatten(), of_samples[:, 1:].flatten()))
    assert flat.unique().numel() == flat.numel()  # no place repeats another's noise


def test_noise_is_standard_gumbel_and_always_finite() -> None:
    drawn = gumbel_row([0], 0, 50_000, 1, 4).flatten()
    assert bool(drawn.isfinite().all())
    # Mean: the Euler-Mascheroni constant; variance: pi^2 / 6. Five standard errors each.
    assert drawn.mean().item() == pytest.approx(0.57722, abs=0.015)
    assert drawn.var().item() == pytest.approx(math.pi**2 / 6, abs=0.035)


def test_noise_does_not_change_between_versions() -> None:
    # A seed that a user wrote down must give the same colours in years.
    first = gumbel_row([2024], 5, 1, 2, 2).flatten().tolist()
    expected = [2.076088195067103, 0.6307620719448174, 1.5747523086548094, 1.4432691624046798]
    assert first == pytest.approx(expected, abs=1e-12)


# ---- several samples


def test_samples_of_a_photo_differ_and_the_first_is_the_single_one() -> None:
    model, L = built(decoder_attention_blocks=1), photos(2, 12, 16)
    many = sample_many(model, L, 3, seeds=[1, 2])
    assert torch.equal(many[:, 0], sample(model, L, seeds=[1, 2]))
    assert torch.equal(many[:, :2], sample_many(model, L, 2, seeds=[1, 2]))
    assert torch.equal(many[1:], sample_many(model, L[1:], 3, seeds=[2]))
    assert not torch.equal(many[:, 0], many[:, 1])
    assert not torch.equal(many[:, 1], many[:, 2])
    with pytest.raises(ConfigError, match="num_samples must be at least 1, got 0"):
        sample_many(model, L, 0, seeds=[1, 2])


def test_best_of_is_the_likeliest_of_the_samples() -> None:
    model, L = built(), photos(3, 12, 16)
    best = best_of(model, L, 5, seeds=[1, 2, 3])
    many = sample_many(model, L, 5, seeds=[1, 2, 3])
    for image in range(3):
        prices = [
            bits_per_dim(model.forward(L[image][None], one[None]).autoregressive, one[None]).item()
            for one in many[image]
        ]
        chosen = int(np.argmin(prices))
        assert int(best.log_likelihood[image].argmax()) == chosen
        assert torch.equal(best.tokens[image], many[image, chosen])
        # log2 p over 2 dimensions of each of 12 positions
        nats = -np.array(prices) * 2 * 12 * math.log(2)
        np.testing.assert_allclose(best.log_likelihood[image].numpy(), nats, rtol=1e-6)


def test_more_samples_never_make_the_best_less_likely() -> None:
    model, L = built(), photos(2, 8, 12)
    likelihoods = [best_of(model, L, k, seeds=[5, 6]).log_likelihood.amax(dim=1) for k in (1, 3, 8)]
    assert bool((likelihoods[0] <= likelihoods[1]).all())
    assert bool((likelihoods[1] <= likelihoods[2]).all())
    assert bool((likelihoods[0] < likelihoods[2]).any())


# ---- sizes and settings


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (2, 3), (13, 9)])
@pytest.mark.parametrize("attention", [0, 1])
def test_any_size_is_sampled_and_comes_back_at_its_own(
    size: tuple[int, int], attention: int
) -> None:
    model = built(encoder_attention_blocks=attention, decoder_attention_blocks=attention)
    L = photos(2, *size)
    tokens = sample(model, L, seeds=[1, 2])
    assert tokens.shape[2:] == (-(-size[0] // 4), -(-size[1] // 4))
    assert torch.equal(tokens, sample(model, L, seeds=[1, 2], naive=True))
    with torch.no_grad():
        ab = model.upsample(model.bins.decode(tokens).double(), L)
    assert ab.shape == (2, 2, *size)
    assert bool(ab.isfinite().all())


def test_a_grid_that_is_hours_of_work_is_refused_with_the_limit() -> None:
    with pytest.raises(ConfigError, match=r"2052x2048 px .* 513x512 = 262656 .* limit is 262144"):
        sample(built(), torch.zeros(1, 1, 2048, 2052).double(), seeds=[0])


def test_a_large_grid_needs_one_row_of_noise_at_a_time() -> None:
    rows = 48
    seen: list[int] = []
    original = gumbel_row

    def counted(*arguments: object) -> Tensor:
        drawn = original(*arguments)  # type: ignore[arg-type]
        seen.append(drawn.numel())
        return drawn

    model = Colorizer(ModelConfig(depth=1), BinsConfig(per_channel=256)).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_module, "gumbel_row", counted)
        sample(model, photos(1, 4 * rows, 4 * rows, torch.float32), seeds=[0])
    assert seen == [rows * 2 * 256] * rows


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=r"a seed must be in \[0, 2\^64\), got"):
        sample(built(), photos(1, 8, 8), seeds=[seed])


def test_a_vanishing_temperature_is_the_most_likely_bin() -> None:
    model, L = built(), photos(2, 8, 12)
    greedy = sample(model, L, seeds=[1, 2], temperature=0.0)
    for options in ({"temperature": 1e-300}, {"temperature": 1e-300, "top_p": 0.5}):
        assert torch.equal(sample(model, L, seeds=[1, 2], **options), greedy)
    assert torch.equal(sample(model, L, seeds=[1, 2], top_p=1e-9), greedy)


def test_autocast_of_the_caller_does_not_reach_the_sampler() -> None:
    model, L = built("factored", torch.float32), photos(2, 16, 16, torch.float32)
    plain = sample(model, L, seeds=[1, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sample(model, L, seeds=[1, 2]), plain)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_cached_and_naive_agree_for_every_norm_and_dropout(norm: str) -> None:
    model = built(encoder_norm=norm, dropout=0.5, decoder_attention_blocks=2)
    L = photos(2, 12, 20)
    cached = sample(model, L, seeds=[1, 2])
    assert torch.equal(cached, sample(model, L, seeds=[1, 2], naive=True))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_cached_decoder_scores_what_the_decoder_does(depth: int) -> None:
    # Numbers, not choices: an error that no argmax shows would show here.
    model = built(depth=depth, decoder_attention_blocks=1)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(8, (2, 2, 4, 5), generator=generator)
    with torch.inference_mode():
        cond = model.encode(photos(2, 16, 20))
        logits = model.decoder_logits(cond, tokens)
        cached = CachedDecoder(model.decoder, cond)
        for row in range(4):
            cached.start_row()
            for column in range(5):
                cached.step()
                for channel in range(2):
                    expected = logits[:, channel, :, row, column]
                    torch.testing.assert_close(
                        cached.scores(channel), expected, atol=1e-11, rtol=1e-11
                    )
                    cached.write(channel, tokens[:, channel, row, column])
            assert torch.equal(cached.row_tokens(), tokens[:, :, row])
