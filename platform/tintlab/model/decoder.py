"""The causal colour decoder: a gated PixelCNN in raster order, without blind spot.

Source: van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, sec. 2: a
vertical stack sees the rows above, a horizontal one the positions to the left and, through a 1x1
layer, the vertical stack at its own position; every gate is conditioned by a 1x1 layer. Here a gate
works on half of the width, and attention over the raster order may follow a block.

Everything is written channels last, (B, rows, w, D), and every layer is either per position or
takes its causal surroundings as an argument. Training gives it all rows at once; the cached sampler
calls `vertical_pass` for one row, and computes single positions with the same weights.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tintlab.model.attention import SelfAttention, attention_places, grid_rotation
from tintlab.model.heads import ColorHead
from tintlab.model.recompute import called
from tintlab.settings import ModelConfig


def shift_right(x: Float[Tensor, "B h w D"]) -> Float[Tensor, "B h w D"]:
    """Give every position what its left neighbour had; the first column gets zeros."""
    return F.pad(x, (0, 0, 1, -1))


def gate(x: Float[Tensor, "*positions two_g"]) -> Float[Tensor, "*positions g"]:
    """tanh(first half) * sigmoid(second half)."""
    value, opening = x.chunk(2, dim=-1)
    return torch.tanh(value) * torch.sigmoid(opening)


def convolve_down(
    kernel: nn.Conv2d, rows: Float[Tensor, "B rows w D"]
) -> Float[Tensor, "B fewer w E"]:
    """A (2, 3) kernel over two rows and three columns: n + 1 rows give n, all columns are kept."""
    out = F.conv2d(rows.permute(0, 3, 1, 2), kernel.weight, kernel.bias, padding=(0, 1))
    return out.permute(0, 2, 3, 1)


def row_kernel(width: int, out: int) -> nn.Conv2d:
    """Parameters for `convolve_down`."""
    return nn.Conv2d(width, out, (2, 3))


class VerticalPass(NamedTuple):
    """What a block's vertical stack gives for some rows."""

    vertical: Tensor
    """(B, rows, w, D), the next block's input; the last block passes its input on."""
    term: Tensor
    """(B, rows, w, 2G), what the horizontal stack's gate adds at each position."""
    last_row: Tensor
    """(B, 1, w, D), the normalised last row: `above` of the rows that follow."""


class GatedBlock(nn.Module):
    """One gated residual block of both stacks; starts as the identity.

    The last block of a decoder has no vertical output: nothing would read it.
    """

    def __init__(self, width: int, dropout: float, last: bool) -> None:
        super().__init__()
        self.gate_width = width // 2
        two_gates = 2 * self.gate_width
        self.norm_vertical = nn.LayerNorm(width)
        self.norm_horizontal = nn.LayerNorm(width)
        self.vertical = row_kernel(width, two_gates)
        self.horizontal = nn.Linear(width, 2 * two_gates, bias=False)  # for the right | for itself
        self.across = nn.Linear(two_gates, two_gates, bias=False)
        self.condition = nn.Linear(width, 2 * two_gates)  # vertical | horizontal
        self.drop = nn.Dropout(dropout)
        self.out_vertical = None if last else nn.Linear(self.gate_width, width)
        self.out_horizontal = nn.Linear(self.gate_width, width)
        for out in (self.out_vertical, self.out_horizontal):
            if out is not None:
                nn.init.zeros_(out.weight)
                nn.init.zeros_(out.bias)

    def forward(
        self,
        vertical: Float[Tensor, "B h w D"],
        horizontal: Float[Tensor, "B h w D"],
        cond: Float[Tensor, "B h w D"],
    ) -> tuple[Float[Tensor, "B h w D"], Float[Tensor, "B h w D"]]:
        """Both stacks over the whole grid."""
        nothing_above = torch.zeros_like(vertical[:, :1])
        vertical, term, _ = self.vertical_pass(vertical, nothing_above, cond)
        rightward, own = self.horizontal(self.norm_horizontal(horizontal)).chunk(2, dim=-1)
        mixed = own + shift_right(rightward) + term
        return vertical, horizontal + self.out_horizontal(self.drop(gate(mixed)))

    def vertical_pass(
        self,
        vertical: Float[Tensor, "B rows w D"],
        above: Float[Tensor, "B 1 w D"],
        cond: Float[Tensor, "B rows w D"],
    ) -> VerticalPass:
        """The vertical stack over some rows, and what it tells the horizontal one.

        Args: above: the normalised row before the first one, zeros at the top of the grid.
        """
        normed = self.norm_vertical(vertical)
        cond_vertical, cond_horizontal = self.condition(cond).chunk(2, dim=-1)
        rows = torch.cat((above.to(normed.dtype), normed), dim=1)
        mixed = convolve_down(self.vertical, rows) + cond_vertical
        term = self.across(mixed) + cond_horizontal
        if self.out_vertical is not None:
            vertical = vertical + self.out_vertical(self.drop(gate(mixed)))
        return VerticalPass(vertical, term, normed[:, -1:])


class TokenStem(nn.Module):
    """The strictly causal first layer: tokens above and to the left, never a position's own."""

    def __init__(self, width: int, channels: int, bins: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(bins, width) for _ in range(channels))
        self.vertical = row_kernel(width, width)
        self.across = nn.Linear(width, width)
        self.horizontal = nn.Linear(width, width, bias=False)

    def forward(
        self, tokens: Int[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B h w D"], Float[Tensor, "B h w D"]]:
        """The inputs of the vertical and of the horizontal stack."""
        embedded = self.embed(tokens.unbind(1))  # (B, h, w, D)
        two_above = F.pad(embedded, (0, 0, 0, 0, 2, -1))  # row r reads r - 2 and r - 1
        vertical = convolve_down(self.vertical, two_above)
        return vertical, self.across(vertical) + shift_right(self.horizontal(embedded))

    def embed(self, tokens: tuple[Int[Tensor, "*positions"], ...]) -> Float[Tensor, "*positions D"]:
        """The sum of a position's token embeddings."""
        total = self.embeddings[0](tokens[0])
        for channel in range(1, len(tokens)):
            total = total + self.embeddings[channel](tokens[channel])
        return total


class ColorDecoder(nn.Module):
    """Logits of every token given the tokens before it in raster order (a before b) and L."""

    recompute: bool = False
    """Keep little within a block for the backward pass (activation checkpointing)."""

    def __init__(self, model: ModelConfig, channels: int, bins: int) -> None:
        super().__init__()
        width = model.width
        self.stem = TokenStem(width, channels, bins)
        self.blocks = nn.ModuleList(
            GatedBlock(width, model.dropout, last=index == model.depth - 1)
            for index in range(model.depth)
        )
        self.attention_after = attention_places(model.depth, model.decoder_attention_blocks)
        self.attention = nn.ModuleList(
            SelfAttention(width, model.dropout) for _ in range(model.decoder_attention_blocks)
        )
        self.head = ColorHead(width, channels, bins)

    def forward(
        self, cond: Float[Tensor, "B D h w"], tokens: Int[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C K h w"]:
        return self.head(self.trunk(cond, tokens), tokens)

    def trunk(
        self, cond: Float[Tensor, "B D h w"], tokens: Int[Tensor, "B C h w"]
    ) -> Float[Tensor, "B h w D"]:
        """Features of each position, from the tokens of earlier positions only."""
        rows, columns = tokens.shape[2:]
        cond = cond.permute(0, 2, 3, 1)  # (B, h, w, D)
        vertical, horizontal = self.stem(tokens)
        attention = iter(self.attention)
        for block, count in zip(self.blocks, self.attention_after, strict=True):
            vertical, horizontal = called(
                block, vertical, horizontal, cond, recompute=self.recompute
            )
            for _ in range(count):
                # A position attends to features at itself and before it, and those know only
                # tokens before their own position: causal without a further shift.
                rotation = grid_rotation(rows, columns, horizontal)
                positions = horizontal.flatten(1, 2)  # (B, T, D)
                mixed = called(next(attention), positions, rotation, True, recompute=self.recompute)
                horizontal = mixed.unflatten(1, (rows, columns))
        return horizontal
