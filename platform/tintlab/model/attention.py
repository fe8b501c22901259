"""Self-attention over a grid of positions, with rotary positions in two dimensions.

The rotation depends on row and column alone and makes scores depend on their differences, so a
grid larger than any seen in training needs no new parameter. Half of a head's channels turn with
the row and half with the column.
Sources: Su et al. 2021, RoFormer; Heo et al. 2024, Rotary Position Embedding for Vision Transformer
(its axial variant).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_CHANNELS = 16
"""Channels of a head: every width is a multiple of 16, and 16 gives 4 frequencies to each axis."""
WAVELENGTH_BASE = 100.0
"""Lowest frequency is 100 ** (-3/4), one turn in about 200 positions: longer than a chroma grid."""


class Rotation(NamedTuple):
    """Cosine and sine of every position's angles, T positions in raster order."""

    cos: Float[Tensor, "T half"]
    sin: Float[Tensor, "T half"]


def grid_rotation(rows: int, columns: int, like: Tensor) -> Rotation:
    """The rotation of each position of a grid, in the dtype and on the device of `like`."""
    per_axis = HEAD_CHANNELS // 4
    exponent = torch.arange(per_axis, dtype=torch.float64) / per_axis
    frequency = WAVELENGTH_BASE**-exponent  # (per_axis,)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angle = torch.cat(
        (row.reshape(-1, 1) * frequency, column.reshape(-1, 1) * frequency), dim=1
    )  # (T, half)
    return Rotation(angle.cos().to(like), angle.sin().to(like))


def rotate(
    x: Float[Tensor, "B N T c"],
    cos: Float[Tensor, "T half"],
    sin: Float[Tensor, "T half"],
) -> Float[Tensor, "B N T c"]:
    """Turn each pair (x_i, x_{i + c/2}) of a head's channels by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return turned.to(x.dtype)


class SelfAttention(nn.Module):
    """A residual self-attention block; starts as the identity."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = width // HEAD_CHANNELS
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Float[Tensor, "B T D"], rotation: Rotation, causal: bool
    ) -> Float[Tensor, "B T D"]:
        """causal: a position attends to itself and the positions before it in raster order."""
        query, key, value = self._heads(x)  # (B, N, T, c)
        mixed = F.scaled_dot_product_attention(
            rotate(query, *rotation), rotate(key, *rotation), value, is_causal=causal
        )
        return x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, positions, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, positions, 3, self.heads, HEAD_CHANNELS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return query, key, value


def attention_places(depth: int, attention_blocks: int) -> list[int]:
    """How many attention blocks follow each of `depth` blocks, spread evenly.

    One goes in the middle, two after the first and second third, and so on.
    """
    after = [0] * depth
    for block in range(1, attention_blocks + 1):
        place = block * depth // (attention_blocks + 1)
        after[max(place, 1) - 1] += 1
    return after
