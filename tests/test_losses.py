"""Terms of the loss against values worked out by hand, and what a whole training step minimises."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tintlab.color.bins import make_bins
from tintlab.config import ExperimentConfig
from tintlab.data.shard_format.ab_statistics import BINS, AbStatistics, merged
from tintlab.errors import ConfigError
from tintlab.model.colorizer import Colorizer
from tintlab.settings import BinsConfig
from tintlab.training.losses import bits_per_dim, pixel_huber, smoothed_nats, token_nats
from tintlab.training.objective import Objective
from tintlab.training.rebalance import color_histogram, color_weights

B, K, H, W = 3, 8, 2, 5
FACTORED, JOINT = BinsConfig(per_channel=8), BinsConfig(kind="joint", joint_step=20)
BOTH = pytest.mark.parametrize("bins", [FACTORED, JOINT], ids=["factored", "joint"])


def random_case(channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((B, channels, K, H, W), generator=generator)
    return logits, torch.randint(K, (B, channels, H, W), generator=generator)


@pytest.mark.parametrize(("channels", "expected"), [(2, 3.0), (1, 1.5)])
def test_uniform_logits_cost_log2_k_per_token(channels, expected):
    # 8 bins are 3 bits a token: two tokens for two dimensions, or one token for both.
    logits = torch.zeros(B, channels, K, H, W)
    tokens = torch.zeros(B, channels, H, W, dtype=torch.int64)
    torch.testing.assert_close(bits_per_dim(logits, tokens), torch.full((B,), expected))


@pytest.mark.parametrize("channels", [1, 2])
def test_bits_are_minus_log2_of_the_grids_probability(channels):
    logits, tokens = random_case(channels)
    probability = logits.double().softmax(dim=2)
    for b in range(B):
        bits = 0.0
        for c in range(channels):
            for i in range(H):
                for j in range(W):
                    bits -= math.log2(probability[b, c, tokens[b, c, i, j], i, j])
        got = bits_per_dim(logits, tokens)[b].item()
        assert got == pytest.approx(bits / (2 * H * W), rel=1e-6)


def test_one_photos_bits_do_not_depend_on_the_others():
    logits, tokens = random_case(2)
    alone = bits_per_dim(logits[1:2], tokens[1:2])
    torch.testing.assert_close(bits_per_dim(logits, tokens)[1:2], alone)


def test_bf16_logits_are_measured_in_fp32():
    logits, tokens = random_case(2)
    half = logits.bfloat16()
    got = bits_per_dim(half, tokens)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, bits_per_dim(half.float(), tokens), rtol=0, atol=0)


def test_smoothed_targets_price_every_bin_by_its_share():
    logits = torch.randn((5, K), generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([0, 3, 3, 7, 1])
    targets = make_bins(FACTORED).neighbour_targets(20.0)
    log_probability = logits.log_softmax(dim=1)
    by_hand = torch.stack(
        [-(targets[token] * row).sum() for token, row in zip(tokens, log_probability, strict=True)]
    )
    torch.testing.assert_close(smoothed_nats(logits, tokens, targets), by_hand)
    # In the limit of no width it is the plain cross-entropy.
    sharp = make_bins(FACTORED).neighbour_targets(0.1)
    torch.testing.assert_close(smoothed_nats(logits, tokens, sharp), token_nats(logits, tokens))


def test_huber_is_squared_below_5_ab_units_and_absolute_above():
    truth = torch.zeros(3, 2, 1, 1)
    ab = torch.tensor([0.0, 2.0, 45.0]).view(3, 1, 1, 1).expand(3, 2, 1, 1)
    # d^2 / 2 / 5 up to 5, then d - 5 / 2: they meet with equal slope.
    assert pixel_huber(ab, truth).tolist() == pytest.approx([0.0, 0.4, 42.5])


# What a training step minimises.


def statistics() -> AbStatistics:
    """A histogram like that of photos: most pixels near grey, none at the corners."""
    place = torch.arange(BINS) * 10 - 105
    nearness = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 20.0**2))
    histogram = (1e6 * nearness).long()
    counted = {"pixels": int(histogram.sum()), "histogram": histogram.tolist()}
    return merged([]).model_copy(update=counted)


def objective(bins: BinsConfig = FACTORED, **loss: object) -> Objective:
    """A float64 model whose every layer matters, and its loss."""
    config = ExperimentConfig(bins=bins).replaced({f"loss.{key}": v for key, v in loss.items()})
    config = config.replaced({"model.depth": 1})
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Colorizer(config.model, config.bins).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise, alpha=0.2)
    return Objective(model, config, statistics())


def photos(height: int = 12, width: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    L = 100 * torch.rand((2, 1, height, width), generator=generator, dtype=torch.float64)
    ab = 160 * torch.rand((2, 2, height, width), generator=generator, dtype=torch.float64) - 80
    return L, ab


def told(loss: Objective) -> dict[str, float]:
    """The reported terms of a step."""
    return dict(zip(loss.terms, loss(*photos())[1].tolist(), strict=True))


@BOTH
def test_the_loss_is_the_weighted_sum_of_terms_that_are_measured_plainly(bins):
    loss = objective(bins, parallel=0.5, pixel=0.25)
    L, ab = photos()
    terms = told(loss)
    assert list(terms) == ["loss", "bits_per_dim", "parallel_bits_per_dim", "pixel_huber"]
    model = loss.model
    tokens = model.tokens(ab)
    logits = model(L, tokens)
    bits = bits_per_dim(logits.autoregressive, tokens).mean().item()
    parallel = bits_per_dim(logits.parallel, tokens).mean().item()
    exact, quantised = model.coarsen(ab), model.bins.decode(tokens)
    middle = exact.shape[3] // 2
    given = torch.cat((exact[..., :middle], quantised[..., middle:]), dim=3)
    huber = pixel_huber(model.upsample(given, L), ab).mean().item()
    assert terms["bits_per_dim"] == pytest.approx(bits, rel=1e-9)
    assert terms["parallel_bits_per_dim"] == pytest.approx(parallel, rel=1e-9)
    assert terms["pixel_huber"] == pytest.approx(huber, rel=1e-9)
    assert terms["loss"] == pytest.approx(bits + 0.5 * parallel + 0.25 * huber, rel=1e-9)


@BOTH
@pytest.mark.parametrize("change", [{"smoothing_sigma_ab": 10.0}, {"rebalance": 1.0}])
def test_what_is_learned_changes_and_what_is_reported_does_not(bins, change):
    plain, changed = told(objective(bins)), told(objective(bins, **change))
    assert changed.pop("loss") != pytest.approx(plain.pop("loss"), rel=1e-3)
    assert changed == pytest.approx(plain)


@BOTH
def test_rebalancing_weighs_each_position_by_its_colour(bins):
    loss = objective(bins, rebalance=1.0, parallel=0.0, pixel=0.0)
    L, ab = photos()
    model = loss.model
    tokens = model.tokens(ab)
    logits = model(L, tokens).autoregressive.movedim(2, -1)
    weight = color_weights(model.bins, statistics(), 1.0)[model.bins.colors(tokens)]
    nats = token_nats(logits, tokens).sum(dim=1) * weight  # (B, h, w)
    expected = nats.mean().item() / (2 * math.log(2))
    assert told(loss)["loss"] == pytest.approx(expected, rel=1e-6)


def test_terms_carry_no_gradient_and_weight_zero_keeps_every_weight_in_the_graph():
    loss = objective(parallel=0.0, pixel=0.0)
    total, terms = loss(*photos())
    assert not terms.requires_grad
    total.backward()
    gradients = {name: p.grad for name, p in loss.model.named_parameters()}
    missing = [name for name, gradient in gradients.items() if gradient is None]
    assert missing == []  # DDP waits for each
    unused = {n for n, g in gradients.items() if not g.any()}
    assert {n.split(".")[0] for n in unused} == {"parallel_head", "upsampler"}


def test_the_bilinear_upsampler_has_no_term():
    config = ExperimentConfig().replaced({"model.upsampler": "bilinear", "model.depth": 1})
    loss = Objective(Colorizer(config.model, config.bins), config, statistics())
    assert loss.terms == ("loss", "bits_per_dim", "parallel_bits_per_dim")


# Class rebalancing.


@BOTH
def test_weights_follow_zhangs_formula_and_average_to_1(bins):
    quantiser = make_bins(bins)
    weights = color_weights(quantiser, statistics(), 1.0).double()
    centers = quantiser.color_centers().double()
    grey = centers.norm(dim=1).argmin()
    vivid = (centers - torch.tensor([70.0, 60.0])).norm(dim=1).argmin()  # red
    assert weights[vivid] > 5 * weights[grey]
    occurrence = color_histogram(quantiser, statistics())
    assert occurrence.sum().item() == pytest.approx(1.0)
    shown = quantiser.displayable() | (occurrence > 0)
    assert weights.min() == weights[grey]
    distance = (centers[shown][:, None] - centers[shown][None]).norm(dim=2)
    gauss = torch.exp(-(distance**2) / (2 * 5**2))
    smoothed = (gauss / gauss.sum(0)) @ occurrence[shown]
    expected = 1 / (0.5 * smoothed + 0.5 / int(shown.sum()))
    expected /= (expected * smoothed).sum()
    torch.testing.assert_close(weights[shown], expected, rtol=1e-5, atol=0)
    assert (weights[~shown] >= weights[shown].max()).all()  # never seen


@BOTH
def test_strength_goes_from_no_rebalancing_to_all_of_it(bins):
    quantiser = make_bins(bins)
    none, half, full = (color_weights(quantiser, statistics(), s) for s in (0.0, 0.5, 1.0))
    assert torch.equal(none, torch.ones_like(none))
    torch.testing.assert_close(half, (none + full) / 2)


def test_the_histogram_is_spread_over_finer_bins_evenly():
    only = [[0] * BINS for _ in range(BINS)]
    only[11][11] = 7  # a and b in [0, 10)
    stats = statistics().model_copy(update={"histogram": only, "pixels": 7})
    share = color_histogram(make_bins(BinsConfig(per_channel=44)), stats)  # bins of 5 units
    inside = share.view(44, 44)[22:24, 22:24]
    torch.testing.assert_close(inside, torch.full((2, 2), 0.25, dtype=torch.float64))
    # A bin of 20 units around grey takes half of the cell on each axis.
    joint = make_bins(BinsConfig(kind="joint", joint_step=10))
    grey = int(joint.color_centers().norm(dim=1).argmin())
    assert color_histogram(joint, stats)[grey].item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("bins", "change", "message"),
    [
        (FACTORED, {"pixels": 3}, "22x22 histogram of 3 pixels"),
        (FACTORED, {"histogram": [[1]], "pixels": 1}, r"got \[1, 1\] of 1;"),
        (FACTORED, {"histogram": [[0] * 22] * 22, "pixels": 0}, "histogram of 0 pixels"),
        (BinsConfig(per_channel=128), {}, "bins of 1.72 ab units.*cells are 10 wide"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_in_one_line(bins, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        color_weights(make_bins(bins), statistics().model_copy(update=change), 1.0)
    assert "\n" not in str(caught.value)


def test_cross_entropy_agrees_with_torchs_own_layout():
    logits, tokens = random_case(2)
    reference = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(0, 1), reduction="none")
    torch.testing.assert_close(token_nats(logits.movedim(2, -1), tokens), reference.view_as(tokens))
