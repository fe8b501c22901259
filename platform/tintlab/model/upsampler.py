"""From the coarse chroma grid to full resolution, in parallel, along the edges of L.

Every pixel mixes the nine chroma cells around it: it starts from the weights of bilinear
interpolation, and a small network of the pixel alone changes them, given how much lighter or darker
each cell is than the pixel. Weights are not negative and sum to 1, so no colour appears that is not
between those of the cells nearby, and errors of the grid (its colours are quantised and sampled)
are never amplified. Weights do not depend on ab, and a pixel needs no other pixel: any photo goes
through in bands of rows, and any ratio of its size to the grid's works.

Sources: Kopf et al. 2007, Joint Bilateral Upsampling (weights from position and guide; here they
are learned); Guadarrama et al. 2017, PixColor (trained on true coarse colours).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tintlab.model.recompute import called
from tintlab.settings import ModelConfig

CELLS = 9
"""3 x 3 cells, centred on the one that the pixel lies in."""
HIDDEN_CHANNELS = 16
"""Measured: 32 lower the error on held-out tiles by another 1 %, with three times the weights."""
L_SCALE = 10.0
"""Brings differences of L between a pixel and its cells, tens of units at an edge, to about 1."""
LEAST_SUM = 1e-3
"""Where a network takes away nearly all weight, colours fade to grey instead of dividing by 0."""
BAND_PIXELS = 1 << 19
"""Pixels at a time: 50 floats each are 100 MiB, and a 16 megapixel photo needs no gigabytes."""


class Bilinear(nn.Module):
    """No parameters; L gives the size."""

    def forward(
        self, ab: Float[Tensor, "B 2 h w"], L: Float[Tensor, "B 1 H W"]
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


def taps(pixels: int, cells: int, like: Tensor) -> Taps:
    """Pixels and cells spread over the same length, their centres half a step from its ends."""
    place = (torch.arange(pixels, dtype=torch.float64) + 0.5) * (cells / pixels) - 0.5
    cell = (place + 0.5).floor().clamp(0, cells - 1)
    offset = place - cell
    before, after = (-offset).clamp(min=0), offset.clamp(min=0)
    weights = torch.stack((before, 1 - before - after, after))
    return Taps(cell.long().to(like.device), offset.to(like), weights.to(like))


class Upsampler(nn.Module):
    """Bilinear at first; learns from the pixel and perceptual losses where L has edges."""

    recompute: bool = False
    """Keep nothing within a band for the backward pass (activation checkpointing)."""

    def __init__(self) -> None:
        super().__init__()
        last = nn.Conv2d(HIDDEN_CHANNELS, CELLS, 1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.change = nn.Sequential(
            nn.Conv2d(CELLS + 2, HIDDEN_CHANNELS, 1),  # lightness of the cells, place in the cell
            nn.SiLU(),
            nn.Conv2d(HIDDEN_CHANNELS, HIDDEN_CHANNELS, 1),
            nn.SiLU(),
            last,
        )

    def forward(
        self,
        ab: Float[Tensor, "B 2 h w"],
        L: Float[Tensor, "B 1 H W"],
        band_pixels: int = BAND_PIXELS,
    ) -> Float[Tensor, "B 2 H W"]:
        """Full-resolution ab; the result does not depend on `band_pixels`."""
        height, width = L.shape[2:]
        rows, columns = ab.shape[2:]
        mean_L = F.adaptive_avg_pool2d(L, (rows, columns))
        cells = F.pad(torch.cat((ab.to(L.dtype), mean_L), dim=1), (1, 1, 1, 1), mode="replicate")
        down, across = taps(height, rows, L), taps(width, columns, L)
        band = max(1, band_pixels // (len(L) * width))
        parts = [
            called(
                self._band,
                cells,
                L[:, :, top : top + band],
                Taps(*(table[..., top : top + band] for table in down)),
                across,
                recompute=self.recompute,
            )
            for top in range(0, height, band)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _band(self, cells: Tensor, L: Tensor, down: Taps, across: Taps) -> Tensor:
        """Some rows of pixels; `cells` has ab and mean L, with one more cell on every side."""
        near = [
            by_row.index_select(3, across.cell + right)
            for by_row in [cells.index_select(2, down.cell + below) for below in range(3)]
            for right in range(3)
        ]  # 9 times (B, 3, rows, W)
        change = self.change(self._guides(near, L, down, across))  # (B, 9, rows, W)
        bilinear = down.weights[:, None, :, None] * across.weights[None, :, None, :]
        weights = (bilinear.flatten(0, 1) + change).clamp(min=0)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=LEAST_SUM)
        mixed = weights[:, 0:1] * near[0][:, :2]
        for index in range(1, CELLS):
            mixed = mixed + weights[:, index : index + 1] * near[index][:, :2]
        return mixed

    @staticmethod
    def _guides(near: list[Tensor], L: Tensor, down: Taps, across: Taps) -> Tensor:
        """What the network sees of each pixel: (B, 11, rows, W)."""
        darker = [(cell[:, 2:] - L) / L_SCALE for cell in near]
        place = torch.broadcast_tensors(
            2 * down.offset[:, None] + torch.zeros_like(L), 2 * across.offset + torch.zeros_like(L)
        )
        return torch.cat((*darker, *place), dim=1)


def make_upsampler(model: ModelConfig) -> Upsampler | Bilinear:
    """The upsampler a config asks for."""
    return Upsampler() if model.upsampler == "learned" else Bilinear()
