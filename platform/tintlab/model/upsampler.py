"""From the coarse chroma grid to full resolution, in parallel, along the edges of the gray photo.

Every pixel mixes the nine chroma cells around it: it starts from the weights of bilinear
interpolation, and a small network changes them. The network looks from the pixel's cell at the
eight around it, at how much lighter and how differently coloured they are; and from the pixel at
its cell, at how much lighter it is and where in the cell it lies. Beside lightness it sees the
encoder's skip features, which tell edges and textures apart that one pixel's lightness does not;
they are the small copy's that the colours were drawn for, and are spread over the photo.

Weights are not negative and sum to 1, so no colour appears that is not between those of the cells
nearby. What cells tell is computed once on the grid; a pixel needs no other pixel: any photo goes
through in bands of rows, and any ratio of its size to the grid's works.

Sources: Kopf et al. 2007, Joint Bilateral Upsampling (weights from position and guide; here they
are learned); Tomasi and Manduchi 1998, Bilateral Filtering (weights from the differences of the
values themselves, which takes the steps off quantised colours); Guadarrama et al. 2017, PixColor
(trained on true coarse colours).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tintlab.model.recompute import called
from tintlab.settings import ModelConfig

CELLS = 9
"""3 x 3 cells, centred on the one that the pixel lies in."""
HIDDEN_CHANNELS = 32
"""Of the network that changes weights."""
SKIP_GUIDES = 4
"""Planes that are made of each of the encoder's skip features."""
LAB_SCALE = 10.0
"""Brings differences of L and ab between neighbours, tens of units at an edge, to about 1."""
LEAST_SUM = 1e-3
"""Where a network takes away nearly all weight, colours fade to grey instead of dividing by 0."""
BAND_PIXELS = 1 << 16
"""Pixels at a time: 140 floats each are 35 MiB; on a CPU, larger parts are slower (measured)."""

Skips = Sequence[Float[Tensor, "B _ _ _"]]
"""Features of the gray photo on grids finer than the chroma grid, see `GrayEncoder.skips`."""


class Bilinear(nn.Module):
    """No parameters; L gives the size."""

    def forward(
        self, ab: Float[Tensor, "B 2 h w"], L: Float[Tensor, "B 1 H W"], skips: Skips = ()
    ) -> Float[Tensor, "B 2 H W"]:
        """Each coarse value sits in the middle of its block of pixels (align_corners=False)."""
        return F.interpolate(ab, size=L.shape[2:], mode="bilinear", align_corners=False)


class Taps(NamedTuple):
    """Which cells the pixels along one axis mix when nothing guides them, and how much of each."""

    cell: Int[Tensor, "n"]
    """The cell a pixel lies in."""
    offset: Float[Tensor, "n"]
    """Where in that cell, -1/2 to 1/2."""
    weights: Float[Tensor, "3 n"]
    """Of the cell before, this one and the next: those of bilinear interpolation."""


class Grid(NamedTuple):
    """The taps of one grid under a photo."""

    down: Taps
    across: Taps

    def rows(self, start: int, stop: int) -> "Grid":
        """Under some of the photo's rows."""
        return Grid(Taps(*(table[..., start:stop] for table in self.down)), self.across)


def taps(pixels: int, cells: int, like: Tensor) -> Taps:
    """Pixels and cells spread over the same length, their centres half a step from its ends."""
    place = (torch.arange(pixels, dtype=torch.float64) + 0.5) * (cells / pixels) - 0.5
    cell = (place + 0.5).floor().clamp(0, cells - 1)
    offset = place - cell
    before, after = (-offset).clamp(min=0), offset.clamp(min=0)
    weights = torch.stack((before, 1 - before - after, after))
    return Taps(cell.long().to(like.device), offset.to(like), weights.to(like))


def grid_under(photo: Tensor, cells: Tensor) -> Grid:
    """The taps of the grid of `cells` (B, h, w, _) under a photo (B, _, H, W)."""
    sides = zip(photo.shape[2:], cells.shape[1:3], strict=True)
    return Grid(*(taps(pixels, count, photo) for pixels, count in sides))


def spread(plane: Float[Tensor, "B h w c"], grid: Grid) -> Float[Tensor, "B rows W c"]:
    """Bilinear interpolation at the pixels of `grid`; a plane goes on as it ends."""
    for dim, along in ((1, grid.down), (2, grid.across)):
        last = plane.shape[dim] - 1
        before, own, after = (
            plane.index_select(dim, (along.cell + step).clamp(0, last))
            * along.weights[1 + step].view(-1, *[1] * (3 - dim))
            for step in (-1, 0, 1)
        )
        plane = before + own + after
    return plane


class Upsampler(nn.Module):
    """Bilinear at first; learns from the pixel and perceptual losses."""

    recompute: bool = False
    """Keep little within a band for the backward pass (activation checkpointing)."""

    def __init__(self, skip_widths: Sequence[int] = ()) -> None:
        """Args: skip_widths: channels of each of the skip features; of none, L alone guides."""
        super().__init__()
        self.of_skips = nn.ModuleList(nn.Linear(width, SKIP_GUIDES) for width in skip_widths)
        of_skips = SKIP_GUIDES * len(skip_widths)
        guides, hidden = 1 + of_skips, HIDDEN_CHANNELS
        self.of_cell = nn.Linear(CELLS * (2 + guides) + of_skips, hidden)
        self.of_pixel = nn.Linear(guides + 2, hidden, bias=False)  # and its place in the cell
        last = nn.Linear(hidden, CELLS)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.change = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)

    def forward(
        self,
        ab: Float[Tensor, "B 2 h w"],
        L: Float[Tensor, "B 1 H W"],
        skips: Skips = (),
        band_pixels: int | None = BAND_PIXELS,
    ) -> Float[Tensor, "B 2 H W"]:
        """Full-resolution ab; the result does not depend on `band_pixels`.

        Args: skips: of a gray photo of any size that is spread over the same area as L;
            band_pixels: how many at a time; None takes all at once, without a loop.
        """
        light = (L / LAB_SCALE).movedim(1, -1)  # (B, H, W, 1)
        planes = [
            of_skip(skip.movedim(1, -1)) for of_skip, skip in zip(self.of_skips, skips, strict=True)
        ]
        cells = self._cells(ab.to(L.dtype), [light, *planes])
        grid, *finer = (grid_under(L, plane) for plane in (cells, *planes))
        height = L.shape[2]
        band = max(1, band_pixels // (len(L) * L.shape[3])) if band_pixels else height
        parts = [
            called(
                self._band,
                cells,
                grid.rows(top, top + band),
                light[:, top : top + band],
                planes,
                [each.rows(top, top + band) for each in finer],
                recompute=self.recompute,
            )
            for top in (range(0, height, band) if band_pixels else (0,))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _cells(self, ab: Tensor, guides: list[Tensor]) -> Tensor:
        """What a pixel gets from the cell it lies in: (B, h, w, 9 a | 9 b | G guides | hidden)."""
        grid = (ab.shape[2], ab.shape[3])
        means = [F.adaptive_avg_pool2d(plane.movedim(-1, 1), grid) for plane in guides]
        values = torch.cat((ab, *means), dim=1)  # (B, V, h, w)
        around = F.unfold(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3)
        around = around.view(ab.shape[0], -1, CELLS, *grid)  # (B, V, 9, h, w)
        differences = around - values[:, :, None]
        scaled = torch.cat((differences[:, :2] / LAB_SCALE, differences[:, 2:]), dim=1)
        seen = torch.cat((scaled.flatten(1, 2), values[:, 3:]), dim=1)
        term = self.of_cell(seen.movedim(1, -1))
        colours = around[:, :2].flatten(1, 2)
        return torch.cat((*(part.movedim(1, -1) for part in (colours, values[:, 2:])), term), dim=3)

    def _band(
        self, cells: Tensor, grid: Grid, light: Tensor, planes: list[Tensor], finer: list[Grid]
    ) -> Float[Tensor, "B 2 rows W"]:
        """Some rows of pixels."""
        own = cells.index_select(1, grid.down.cell).index_select(2, grid.across.cell)
        a, b, guides, term = own.split(
            (CELLS, CELLS, own.shape[3] - 2 * CELLS - HIDDEN_CHANNELS, HIDDEN_CHANNELS), dim=3
        )
        pixel = torch.cat((light, *map(spread, planes, finer)), dim=3)  # (B, rows, W, G)
        place = torch.broadcast_tensors(
            2 * grid.down.offset[:, None, None] + torch.zeros_like(light),
            2 * grid.across.offset[:, None] + torch.zeros_like(light),
        )
        change = self.change(term + self.of_pixel(torch.cat((pixel - guides, *place), dim=3)))
        bilinear = grid.down.weights.T[:, None, :, None] * grid.across.weights.T[:, None, :]
        weights = (bilinear.flatten(2) + change).clamp(min=0)  # (B, rows, W, 9)
        weights = weights / weights.sum(dim=3, keepdim=True).clamp(min=LEAST_SUM)
        return torch.stack([(weights * of_cells).sum(dim=3) for of_cells in (a, b)], dim=1)


def make_upsampler(model: ModelConfig, skip_widths: Sequence[int]) -> Upsampler | Bilinear:
    """The upsampler a config asks for; skip_widths: see `Upsampler`."""
    return Upsampler(skip_widths) if model.upsampler == "learned" else Bilinear()
