"""The upsampler: bilinear at first, never a colour from nowhere, any size, any number of bands."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tintlab.model.upsampler import Bilinear, Upsampler, grid_under, spread
from tintlab.training.losses import pixel_huber

SIZES = [
    ((3, 4), (12, 16)),  # a stride of 4
    ((3, 4), (13, 7)),  # no whole ratio
    ((1, 1), (1, 1)),
    ((5, 9), (1, 30)),  # a photo smaller than its grid
    ((2, 3), (96, 61)),
]


SKIPS = pytest.mark.parametrize("widths", [(), (3,), (2, 5)], ids=["L alone", "one", "two"])


def planes(grid: tuple[int, int], size: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ab = 160 * torch.rand((batch, 2, *grid), generator=generator, dtype=torch.float64) - 80
    return ab, 100 * torch.rand((batch, 1, *size), generator=generator, dtype=torch.float64)


def skips_of(widths: tuple[int, ...], grid: tuple[int, int], batch: int = 2) -> list[Tensor]:
    """Features on grids 4 and 2 times finer than the chroma grid."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(
            (batch, width, finer * grid[0], finer * grid[1]),
            generator=generator,
            dtype=torch.float64,
        )
        for width, finer in zip(widths, (4, 2), strict=False)
    ]


def untrained(widths: tuple[int, ...] = ()) -> Upsampler:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Upsampler(widths).double()


def guided(widths: tuple[int, ...] = ()) -> Upsampler:
    """One whose network changes the weights a lot."""
    upsampler = untrained(widths)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in upsampler.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise, alpha=0.3)
    return upsampler


@SKIPS
@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_untrained_it_is_bilinear_interpolation(grid, size, widths):
    ab, L = planes(grid, size)
    up = untrained(widths)(ab, L, skips_of(widths, grid))
    torch.testing.assert_close(up, Bilinear()(ab, L), rtol=0, atol=1e-10)


@SKIPS
@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_every_colour_is_between_those_of_the_nine_cells_around(grid, size, widths):
    ab, L = planes(grid, size)
    up = guided(widths)(ab, L, skips_of(widths, grid))
    assert (up - Bilinear()(ab, L)).abs().max() > 1 or grid == (1, 1)
    padded = F.pad(ab, (1, 1, 1, 1), mode="replicate")
    highest, lowest = F.max_pool2d(padded, 3, 1), -F.max_pool2d(-padded, 3, 1)
    # Which cell each pixel lies in; a photo smaller than its grid skips cells.
    row = ((torch.arange(size[0]) + 0.5) * grid[0] / size[0]).long()
    column = ((torch.arange(size[1]) + 0.5) * grid[1] / size[1]).long()
    assert (up <= highest[:, :, row][..., column] + 1e-9).all()
    assert (up >= lowest[:, :, row][..., column] - 1e-9).all()


def test_grey_stays_grey_where_all_weight_is_taken_away():
    upsampler = guided()
    with torch.no_grad():
        upsampler.change[-1].bias.fill_(-1000.0)
    ab, L = planes((2, 3), (8, 12))
    assert torch.equal(upsampler(ab, L), torch.zeros(2, 2, 8, 12, dtype=torch.float64))


def test_skip_features_are_spread_over_the_photo_as_bilinear_interpolation_does():
    plane = torch.randn((2, 5, 6, 4), generator=torch.Generator().manual_seed(0)).double()
    for size in ((24, 32), (7, 61), (3, 2)):
        photo = torch.zeros((2, 1, *size), dtype=torch.float64)
        found = spread(plane.movedim(1, -1), grid_under(photo, plane.movedim(1, -1))).movedim(-1, 1)
        expected = F.interpolate(plane, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_colours_alone_move_the_weights():
    # Cells of another colour are another thing, also where the photo is equally light.
    ab, L = planes((4, 4), (16, 16))
    upsampler, flat = guided(), torch.full_like(L, 50.0)
    hue_turned = ab * torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 2, 1, 1)
    a = upsampler(ab, flat)[:, 0]
    assert not torch.allclose(upsampler(hue_turned, flat)[:, 0], a)


@SKIPS
@pytest.mark.parametrize("band_pixels", [1, 100, 333, 10**9])
def test_bands_change_nothing(band_pixels, widths):
    ab, L = planes((5, 6), (37, 41))
    upsampler, skips = guided(widths), skips_of(widths, (5, 6))
    whole = upsampler(ab, L, skips, band_pixels=10**9)
    banded = upsampler(ab, L, skips, band_pixels=band_pixels)
    torch.testing.assert_close(banded, whole, rtol=0, atol=1e-11)


@SKIPS
def test_a_batch_of_2_equals_two_of_1(widths):
    ab, L = planes((3, 4), (12, 16))
    upsampler, skips = guided(widths), skips_of(widths, (3, 4))
    alone = torch.cat(
        [upsampler(ab[i : i + 1], L[i : i + 1], [s[i : i + 1] for s in skips]) for i in range(2)]
    )
    torch.testing.assert_close(upsampler(ab, L, skips), alone, rtol=0, atol=1e-11)


@SKIPS
def test_recomputing_gives_the_same_gradients_and_every_input_has_one(widths):
    ab, L = planes((3, 4), (12, 16))
    gradients = []
    for recompute in (False, True):
        upsampler = guided(widths)
        upsampler.recompute = recompute
        leaves = [x.clone().requires_grad_() for x in (ab, *skips_of(widths, (3, 4)))]
        upsampler(leaves[0], L, leaves[1:], band_pixels=64).square().sum().backward()
        gradients.append([leaf.grad for leaf in (*leaves, *upsampler.parameters())])
    for plain, again in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(again, plain, rtol=1e-11, atol=1e-11)


def test_large_photos_need_no_more_than_a_band_at_a_time(monkeypatch):
    ab = torch.zeros(1, 2, 16, 24)
    L = torch.zeros(1, 1, 1300, 2002)
    upsampler, seen = Upsampler(), []
    real = upsampler._band

    def band(cells, grid, light, *skips):
        seen.append(light.shape[1] * light.shape[2])
        return real(cells, grid, light, *skips)

    monkeypatch.setattr(upsampler, "_band", band)
    with torch.no_grad():
        assert upsampler(ab, L).shape == (1, 2, 1300, 2002)
    assert sum(seen) == 1300 * 2002
    assert max(seen) <= 1 << 16


def test_it_learns_that_colours_end_where_lightness_does():
    # Two halves of different colour and lightness, the edge at a random column: bilinear smears
    # over a cell, and only L says where in the cell the edge is.
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(4, 28, (64, 1, 1, 1), generator=generator)
    right = (torch.arange(32) >= edges).float().expand(64, 1, 32, 32)
    lights = torch.rand((64, 2, 1, 1), generator=generator) * 40 + torch.tensor([10.0, 50.0]).view(
        1, 2, 1, 1
    )
    L = lights[:, :1] * (1 - right) + lights[:, 1:] * right
    colors = torch.rand((64, 4, 1, 1), generator=generator) * 120 - 60
    ab = colors[:, :2] * (1 - right) + colors[:, 2:] * right
    coarse = F.avg_pool2d(ab, 4)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        upsampler = Upsampler()
    optimizer = torch.optim.Adam(upsampler.parameters(), lr=1e-2)
    for step in range(60):
        part = slice(step % 2 * 24, step % 2 * 24 + 24)
        loss = pixel_huber(upsampler(coarse[part], L[part]), ab[part]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = slice(48, 64)
    with torch.no_grad():
        errors = [
            (up(coarse[held_out], L[held_out]) - ab[held_out]).abs().mean().item()
            for up in (upsampler, Bilinear())
        ]
    assert errors[0] < 0.6 * errors[1]
