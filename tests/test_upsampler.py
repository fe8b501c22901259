"""The upsampler: bilinear at first, never a colour from nowhere, any size, any number of bands."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tintlab.model.upsampler import Bilinear, Upsampler
from tintlab.training.losses import pixel_huber

SIZES = [
    ((3, 4), (12, 16)),  # a stride of 4
    ((3, 4), (13, 7)),  # no whole ratio
    ((1, 1), (1, 1)),
    ((5, 9), (1, 30)),  # a photo smaller than its grid
    ((2, 3), (96, 61)),
]


def planes(grid: tuple[int, int], size: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ab = 160 * torch.rand((batch, 2, *grid), generator=generator, dtype=torch.float64) - 80
    return ab, 100 * torch.rand((batch, 1, *size), generator=generator, dtype=torch.float64)


def guided(seed: int = 0) -> Upsampler:
    """One whose network changes the weights a lot."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        upsampler = Upsampler().double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in upsampler.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise, alpha=0.3)
    return upsampler


@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_untrained_it_is_bilinear_interpolation(grid, size):
    ab, L = planes(grid, size)
    torch.testing.assert_close(Upsampler().double()(ab, L), Bilinear()(ab, L), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_every_colour_is_between_those_of_the_nine_cells_around(grid, size):
    ab, L = planes(grid, size)
    up = guided()(ab, L)
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
        upsampler.change[-1].bias.fill_(-100.0)
    ab, L = planes((2, 3), (8, 12))
    assert torch.equal(upsampler(ab, L), torch.zeros(2, 2, 8, 12, dtype=torch.float64))


@pytest.mark.parametrize("band_pixels", [1, 100, 333, 10**9])
def test_bands_change_nothing(band_pixels):
    ab, L = planes((5, 6), (37, 41))
    upsampler = guided()
    whole = upsampler(ab, L, band_pixels=10**9)
    torch.testing.assert_close(upsampler(ab, L, band_pixels=band_pixels), whole, rtol=0, atol=1e-12)


def test_a_batch_of_2_equals_two_of_1():
    ab, L = planes((3, 4), (12, 16))
    upsampler = guided()
    alone = torch.cat([upsampler(ab[i : i + 1], L[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(upsampler(ab, L), alone, rtol=0, atol=1e-12)


def test_recomputing_gives_the_same_gradients():
    ab, L = planes((3, 4), (12, 16))
    gradients = []
    for recompute in (False, True):
        upsampler = guided()
        upsampler.recompute = recompute
        leaf = ab.clone().requires_grad_()
        upsampler(leaf, L, band_pixels=64).square().sum().backward()
        gradients.append([leaf.grad, *(p.grad for p in upsampler.parameters())])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-12, atol=1e-12)


def test_large_photos_need_no_more_than_a_band_at_a_time(monkeypatch):
    ab = torch.zeros(1, 2, 16, 24)
    L = torch.zeros(1, 1, 1300, 2002)
    upsampler, seen = Upsampler(), []
    real = upsampler._band

    def band(cells, L, down, across):
        seen.append(L.shape[2] * L.shape[3])
        return real(cells, L, down, across)

    monkeypatch.setattr(upsampler, "_band", band)
    with torch.no_grad():
        assert upsampler(ab, L).shape == (1, 2, 1300, 2002)
    assert sum(seen) == 1300 * 2002
    assert max(seen) <= 1 << 19


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
