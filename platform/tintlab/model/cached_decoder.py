"""The decoder one position at a time, remembering what later positions will need.

Exact: it calls the decoder's own layers, one row of the vertical stack at a time and one position
of the horizontal one, and keeps of each convolution the row above and the left neighbour, and of
each attention block the keys and values. Source of the idea: Ramachandran et al. 2017, Fast
Generation for Convolutional Autoregressive Models (arXiv 1704.06001).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tintlab.model.attention import SelfAttention, grid_rotation
from tintlab.model.decoder import ColorDecoder, GatedBlock, convolve_down


class CachedDecoder:
    """One pass over a grid, in this order: `start_row`, then `step` and `write` for each column.

    Memory: two rows per block, and 2 * B * T * D numbers per attention block.
    """

    def __init__(self, decoder: ColorDecoder, cond: Float[Tensor, "B D h w"]) -> None:
        batch, width, rows, columns = cond.shape
        self.stem = decoder.stem
        self.cond = cond.permute(0, 2, 3, 1).contiguous()  # (B, h, w, D)
        self.columns = columns
        self.row = -1
        self.blocks: list[GatedBlock] = list(decoder.blocks)  # type: ignore[arg-type]
        self.two_above = self.cond.new_zeros(batch, 2, columns, width)  # embedded tokens
        self.above = [self.cond.new_zeros(batch, 1, columns, width) for _ in self.blocks]
        self.written: list[Tensor] = []  # embedded tokens of this row

        attention: list[SelfAttention] = list(decoder.attention)  # type: ignore[arg-type]
        self.rotation = grid_rotation(rows, columns, self.cond)
        caches = [block.new_cache(batch, rows * columns, self.cond) for block in attention]
        remaining = iter(zip(attention, caches, strict=True))
        self.attention_after = [
            [next(remaining) for _ in range(count)] for count in decoder.attention_after
        ]

    def start_row(self) -> None:
        """Run the vertical stacks of the next row; the row before must be written whole."""
        if self.row >= 0:
            assert len(self.written) == self.columns
            row = torch.stack(self.written, dim=1)[:, None]  # (B, 1, w, D)
            self.two_above = torch.cat((self.two_above[:, 1:], row), dim=1)
        self.row += 1
        self.written = []

        cond = self.cond[:, self.row : self.row + 1]
        vertical = convolve_down(self.stem.vertical, self.two_above)  # (B, 1, w, D)
        self.from_above = self.stem.across(vertical)[:, 0].unbind(1)
        self.terms = []
        for index, block in enumerate(self.blocks):
            vertical, term, self.above[index] = block.vertical_pass(
                vertical, self.above[index], cond
            )
            self.terms.append(term[:, 0].unbind(1))  # w times (B, 2G)
        nothing = torch.zeros_like(self.terms[0][0])
        self.left = [nothing for _ in self.blocks]
        self.left_tokens = torch.zeros_like(self.from_above[0])

    def step(self) -> Float[Tensor, "B D"]:
        """The trunk at the next column of this row; `write` its tokens before the next step."""
        column = len(self.written)
        position = self.row * self.columns + column
        horizontal = self.from_above[column] + self.left_tokens
        for index, block in enumerate(self.blocks):
            horizontal, self.left[index] = block.horizontal_step(
                horizontal, self.left[index], self.terms[index][column]
            )
            for attention, cache in self.attention_after[index]:
                horizontal = attention.step(horizontal, position, self.rotation, cache)
        return horizontal

    def write(self, tokens: Sequence[Int[Tensor, "B"]]) -> None:
        """Fix the tokens of the position `step` was last called for, one tensor per channel."""
        embedded = self.stem.embed(tuple(tokens))  # (B, D)
        self.written.append(embedded)
        self.left_tokens = self.stem.horizontal(embedded)
