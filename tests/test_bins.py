"""ab bins: nearest bin and back, the gamut of the joint grid, soft decode and its limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tintlab.color.bins import AB_LIMIT, Bins, FactoredBins, JointBins, make_bins
from tintlab.color.lab import srgb_to_lab
from tintlab.settings import BinsConfig

FACTORED = FactoredBins(per_channel=32)
JOINT = JointBins(step=10.0)
EVERY_KIND = [
    FACTORED,
    FactoredBins(per_channel=2),
    FactoredBins(per_channel=256),
    JOINT,
    JointBins(step=2.0),
    JointBins(step=7.0),
    JointBins(step=40.0),
]
every_kind = pytest.mark.parametrize(
    "bins", EVERY_KIND, ids=lambda bins: f"{type(bins).__name__}-{bins.count}"
)
each_kind = pytest.mark.parametrize("bins", [FACTORED, JOINT], ids=["factored", "joint"])


def every_token(bins: Bins) -> Tensor:
    """One row of positions that uses every bin of every channel, (1, C, 1, K)."""
    return torch.arange(bins.count).expand(1, bins.channels, 1, bins.count).contiguous()


def random_ab(seed: int, limit: float = AB_LIMIT) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(2, 2, 16, 16, generator=generator) * 2 - 1) * limit


def photo_ab(seed: int) -> Tensor:
    """ab of random sRGB colours, (1, 2, 64, 64): always in gamut."""
    rgb = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return torch.from_numpy(srgb_to_lab(rgb)[..., 1:]).movedim(-1, 0)[None].contiguous()


def confident(bins: Bins, tokens: Tensor, margin: float) -> Tensor:
    """Logits (B, C, K, h, w) that put `margin` on the given tokens and 0 elsewhere."""
    return margin * torch.nn.functional.one_hot(tokens, bins.count).movedim(-1, 2).float()


def test_config_chooses_the_bins() -> None:
    factored = make_bins(BinsConfig(kind="factored", per_channel=20))
    joint = make_bins(BinsConfig(kind="joint", joint_step=20.0))
    assert (type(factored), factored.channels, factored.count) == (FactoredBins, 2, 20)
    assert (type(joint), joint.channels, joint.count) == (JointBins, 1, 77)


@every_kind
def test_every_bin_holds_its_own_centre(bins: Bins) -> None:
    tokens = every_token(bins)
    ab = bins.decode(tokens)
    assert ab.shape == (1, 2, 1, bins.count)
    assert ab.abs().max() <= AB_LIMIT
    assert torch.equal(bins.quantize(ab), tokens)


def test_factored_bins_are_uniform_and_a_comes_first() -> None:
    bins = FactoredBins(per_channel=4)
    assert bins.centers[:, 0].tolist() == [-82.5, -27.5, 27.5, 82.5]
    tokens = torch.tensor([0, 3]).view(1, 2, 1, 1)
    assert bins.decode(tokens).flatten().tolist() == [-82.5, 82.5]
    edge = torch.tensor([-110.0, 110.0, -55.0, 54.99]).expand(1, 2, 1, 4)
    assert bins.quantize(edge)[0, 0, 0].tolist() == [0, 3, 1, 2]


def test_joint_bins_are_grid_points_sorted_by_a_then_b() -> None:
    points = JOINT.centers
    assert torch.equal(points, (points / 10).round() * 10)
    assert sorted(points.tolist()) == points.tolist()
    assert [0.0, 0.0] in points.tolist()


@given(
    st.integers(2, 256),
    st.lists(st.floats(-110, 110, width=32), min_size=2, max_size=2),
)
@settings(deadline=None)
def test_factored_error_is_at_most_half_a_bin(per_channel: int, values: list[float]) -> None:
    bins = FactoredBins(per_channel)
    ab = torch.tensor(values).view(1, 2, 1, 1)
    error = (bins.decode(bins.quantize(ab)) - ab).abs().max().item()
    assert error <= 110 / per_channel + 1e-4


@settings(deadline=None)
@given(
    st.sampled_from([2.0, 5.0, 10.0, 22.0]),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_joint_error_in_gamut_is_at_most_half_a_cell(
    step: float, color: tuple[int, int, int]
) -> None:
    """Every photo pixel falls into a cell of the grid: the token is that very grid point."""
    lab = srgb_to_lab(np.array(color, np.uint8).reshape(1, 1, 3))
    ab = torch.from_numpy(lab[..., 1:]).movedim(-1, 0)[None].contiguous()
    bins = JointBins(step)
    assert (bins.decode(bins.quantize(ab)) - ab).abs().max().item() <= step / 2 + 1e-4


@every_kind
def test_no_other_bin_is_nearer(bins: Bins) -> None:
    for ab in (random_ab(seed=4), photo_ab(seed=4)[..., :16, :16]):
        chosen = (bins.decode(bins.quantize(ab)) - ab).norm(dim=1)
        points = bins.centers
        if bins.channels == 2:
            points = torch.cartesian_prod(points[:, 0], points[:, 0])
        pixels = ab.movedim(1, -1).reshape(-1, 2).double()
        nearest = torch.cdist(pixels[:64], points.double()).amin(dim=1)
        torch.testing.assert_close(
            chosen.flatten()[:64].double(), nearest, atol=1e-4, rtol=0, check_dtype=False
        )


def test_joint_bins_far_out_of_gamut_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ab = random_ab(seed=6)
    whole = JOINT.quantize(ab)
    monkeypatch.setattr("tintlab.color.bins.MAX_DISTANCES", 1000)
    assert torch.equal(JOINT.quantize(ab), whole)


@pytest.mark.parametrize(("step", "count"), [(2.0, 5766), (5.0, 969), (10.0, 261), (40.0, 22)])
def test_number_of_joint_bins(step: float, count: int) -> None:
    """Counted over all 16.7 million colours when this was written."""
    assert JointBins(step).count == count


def test_joint_bins_are_exactly_the_cells_that_colours_reach() -> None:
    """A lattice through the inside of the RGB cube finds nearly all of them, and no other."""
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    ab = srgb_to_lab(lattice)[..., 1:].reshape(-1, 2)
    reached = set(map(tuple, np.unique(np.rint(ab / 10) * 10, axis=0).tolist()))
    bins = set(map(tuple, JOINT.centers.tolist()))
    assert reached <= bins
    assert len(bins - reached) <= 3


@every_kind
@pytest.mark.parametrize("value", [110.5, -111.0, 1e6, float("nan"), float("inf")])
def test_colours_outside_the_range_are_refused(bins: Bins, value: float) -> None:
    ab = torch.zeros(1, 2, 2, 2)
    ab[0, 1, 1, 0] = value
    with pytest.raises(ValueError, match=r"ab must be in \[-110, 110\], got values in \["):
        bins.quantize(ab)


@every_kind
def test_rounding_beyond_the_limit_is_tolerated(bins: Bins) -> None:
    limit = torch.tensor([AB_LIMIT, -AB_LIMIT])
    corners = torch.cartesian_prod(limit, limit).T.reshape(1, 2, 1, 4)
    beyond = bins.quantize(corners * (1 + 3e-6))
    assert torch.equal(beyond, bins.quantize(corners))
    assert beyond.min() >= 0
    assert beyond.max() < bins.count


@each_kind
def test_half_precision_is_quantized_as_float32(bins: Bins) -> None:
    half = random_ab(seed=8, limit=100).to(torch.bfloat16)
    assert torch.equal(bins.quantize(half), bins.quantize(half.float()))


@each_kind
@pytest.mark.parametrize("token", [-1, 10_000])
def test_foreign_tokens_are_refused(bins: Bins, token: int) -> None:
    tokens = torch.zeros(1, bins.channels, 2, 2, dtype=torch.int64)
    tokens[0, -1, 0, 1] = token
    with pytest.raises(ValueError, match=rf"tokens must be in \[0, {bins.count}\), got .*"):
        bins.decode(tokens)


@each_kind
def test_uniform_logits_give_the_mean_of_all_centres(bins: Bins) -> None:
    ab = bins.soft_decode(torch.full((1, bins.channels, bins.count, 2, 3), 7.0))
    mean = bins.centers.mean(dim=0).expand(2) if bins.channels == 2 else bins.centers.mean(dim=0)
    torch.testing.assert_close(ab, mean.view(1, 2, 1, 1).expand(1, 2, 2, 3), atol=1e-4, rtol=0)


@each_kind
def test_towards_zero_temperature_the_likeliest_bin_is_taken(bins: Bins) -> None:
    generator = torch.Generator().manual_seed(10)
    shape = (2, bins.channels, bins.count, 4, 4)
    logits = torch.rand(shape, generator=generator).argsort(dim=2).float()  # all 1 apart
    best = bins.decode(logits.argmax(dim=2))
    torch.testing.assert_close(bins.soft_decode(logits, temperature=1e-3), best)
    gap_at = {t: (bins.soft_decode(logits, t) - best).abs().mean() for t in (3.0, 1.0, 0.38)}
    assert gap_at[3.0] > gap_at[1.0] > gap_at[0.38] > 0


@each_kind
def test_annealed_mean_of_two_bins_is_zhangs_formula(bins: Bins) -> None:
    """Probabilities 0.8 and 0.2: f_T = p^(1/T) / sum p^(1/T), T = 0.38 unless told otherwise."""
    logits = torch.full((1, bins.channels, bins.count, 1, 1), -torch.inf)
    logits[:, :, 3], logits[:, :, 20] = np.log(0.8), np.log(0.2)
    share = 0.8 ** (1 / 0.38) / (0.8 ** (1 / 0.38) + 0.2 ** (1 / 0.38))
    position = torch.full((1, bins.channels, 1, 1), 3)
    expected = share * bins.decode(position) + (1 - share) * bins.decode(position + 17)
    torch.testing.assert_close(bins.soft_decode(logits), expected)


@every_kind
def test_confident_logits_decode_to_their_tokens(bins: Bins) -> None:
    """Every bin, so a and b cannot be swapped and no centre misplaced."""
    tokens = bins.quantize(random_ab(seed=11))
    assert len(tokens.unique()) > 1
    ab = bins.soft_decode(confident(bins, tokens, margin=50.0))
    torch.testing.assert_close(ab, bins.decode(tokens), atol=1e-3, rtol=0)


@each_kind
def test_soft_decode_is_differentiable(bins: Bins) -> None:
    small = FactoredBins(per_channel=5) if bins.channels == 2 else JointBins(step=40.0)
    generator = torch.Generator().manual_seed(12)
    shape = (1, small.channels, small.count, 2, 2)
    logits = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(small.soft_decode, logits)


@each_kind
def test_extreme_logits_have_finite_gradients(bins: Bins) -> None:
    tokens = bins.quantize(random_ab(seed=13))
    for margin in (1e4, -1e4, 1e30):
        logits = confident(bins, tokens, margin).requires_grad_()
        bins.soft_decode(logits).sum().backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


@each_kind
def test_autocast_does_not_coarsen_the_mean(bins: Bins) -> None:
    generator = torch.Generator().manual_seed(14)
    logits = torch.randn(1, bins.channels, bins.count, 4, 4, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ab = bins.soft_decode(logits)
    torch.testing.assert_close(ab, bins.soft_decode(logits))
    assert bins.soft_decode(logits.to(torch.bfloat16)).dtype == torch.float32


@each_kind
def test_soft_decode_stays_on_the_device_of_its_logits(bins: Bins) -> None:
    """The meta device refuses to mix with the CPU, as a GPU would."""
    logits = torch.zeros(1, bins.channels, bins.count, 2, 2, device="meta")
    assert bins.soft_decode(logits).device == torch.device("meta")


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_impossible_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0, got"):
        FACTORED.soft_decode(torch.zeros(1, 2, 32, 1, 1), temperature)


# Neighbours, and the colours that tokens say together.


@pytest.mark.parametrize("config", [BinsConfig(), BinsConfig(kind="joint", joint_step=20)])
def test_smoothed_targets_fall_off_with_distance_in_ab_and_sum_to_1(config: BinsConfig) -> None:
    bins = make_bins(config)
    targets = bins.neighbour_targets(8.0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(bins.count))
    distance = torch.cdist(bins.centers, bins.centers)
    for k in (0, bins.count // 2):
        nearest_first = distance[k].argsort(stable=True)
        assert (targets[k][nearest_first].diff() <= 1e-9).all()
        for j in (0, bins.count // 3):
            ratio = (targets[k, j] / targets[k, k]).item()
            assert ratio == pytest.approx(math.exp(-(distance[k, j].item() ** 2) / 128), abs=1e-6)


@pytest.mark.parametrize("config", [BinsConfig(per_channel=8), BinsConfig(kind="joint")])
def test_every_colour_has_a_number_and_a_centre(config: BinsConfig) -> None:
    bins = make_bins(config)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(bins.count, (2, bins.channels, 3, 4), generator=generator)
    numbers = bins.colors(tokens)
    assert bins.color_centers().shape == (bins.color_count, 2)
    assert torch.equal(bins.color_centers()[numbers].movedim(-1, 1), bins.decode(tokens))


def test_joint_bins_are_all_displayable_and_factored_ones_are_not() -> None:
    joint, factored = make_bins(BinsConfig(kind="joint")), make_bins(BinsConfig(per_channel=22))
    assert joint.displayable().all()
    shown = factored.displayable()
    # The same cells of 10 units, shifted by half of one: about as many hold a colour of sRGB.
    assert abs(int(shown.sum()) - joint.count) < 0.1 * joint.count
    corner = factored.color_centers().sum(dim=1).argmin()  # a and b both -105
    assert not shown[corner]


def test_grey_stays_grey_unless_the_bins_are_even_in_number() -> None:
    grey = torch.zeros(1, 2, 1, 1)
    for config in (BinsConfig(), BinsConfig(kind="joint")):
        bins = make_bins(config)
        assert torch.equal(bins.decode(bins.quantize(grey)), grey)
    even = make_bins(BinsConfig(per_channel=32))
    assert even.decode(even.quantize(grey)).abs().min() > 3
