"""The decoder one position at a time, remembering what later positions will need.

Exact: the vertical stack runs a row at a time and keeps of each convolution the row above; the
horizontal stack keeps of each layer what it tells its right neighbour, and of each attention block
the keys and values. Source of the idea: Ramachandran et al.
2017, Fast Generation for Convolutional Autoregressive Models (arXiv 1704.06001).

A position is so little work that the calls would take longer than the arithmetic. So what does not
depend on the row's own tokens is computed for the whole row, and the weights are rewritten once for
each grid such that a gated block is five calls on buffers that already exist. Nothing is
approximated:

    norm          its scale and shift go into the layer behind it; `layer_norm` without them
    convolution   a product of the three positions around each one; sums join the products
    gate          tanh(v) sigmoid(o) = (t + t s) / 2 with t = tanh(v), s = tanh(o / 2): one tanh
                  over both; the halves go into the weights before and after it
    left, bias    one product gives a position's own gate input and its right neighbour's, and adds
                  them where they are needed; a constant 1 behind the gate carries the bias
    tokens        an embedding followed by a linear layer is a table; noise joins the last bias
    rotation      the turned query and key are two more outputs of the same product
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tintlab.model.attention import HEAD_CHANNELS, Rotation, SelfAttention, grid_rotation
from tintlab.model.decoder import ColorDecoder, GatedBlock


class Affine(NamedTuple):
    """x @ weight + bias."""

    weight: Float[Tensor, "D E"]
    bias: Float[Tensor, "E"]


def after_norm(norm: nn.LayerNorm, layer: nn.Linear, scale: Tensor | None = None) -> Affine:
    """`layer(norm(x))` as an affine map of `layer_norm(x)` without weights.

    Args: scale: multiplies each output, shape (E,).
    """
    # In float64: the rounding of the rewritten weights must not add to that of the arithmetic.
    weight = layer.weight.double()  # (E, D)
    bias = weight @ norm.bias.double()
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    weight = (weight * norm.weight.double()).T
    if scale is not None:
        weight, bias = weight * scale, bias * scale
    return Affine(weight.to(layer.weight.dtype).contiguous(), bias.to(layer.weight.dtype))


class _RowKernel:
    """A (2, 3) kernel over the row above and the present one, as a product of three neighbours."""

    def __init__(self, kernel: nn.Conv2d, batch: int, columns: int, scale: Tensor | None) -> None:
        weight = kernel.weight if scale is None else kernel.weight * scale[:, None, None, None]
        self.of_above, self.of_row = (
            half.permute(2, 1, 0).flatten(0, 1).contiguous()  # (E, D, 3) -> (3D, E)
            for half in weight.unbind(2)
        )
        assert kernel.bias is not None
        self.bias = kernel.bias if scale is None else kernel.bias * scale
        width = kernel.in_channels
        self.padded = weight.new_zeros(batch, columns + 2, width)
        self.windows = self.padded.unfold(1, 3, 1).transpose(2, 3)  # (B, w, 3, D), overlapping
        above, around = weight.new_empty(2, batch, columns, 3, width).unbind(0)
        self.above, self.around = above, around
        self.at_top = True

    def __call__(self, row: Float[Tensor, "B w D"]) -> Float[Tensor, "positions E"]:
        """Args: row: the row below the one of the last call, or the first one."""
        self.padded[:, 1:-1] = row
        self.around.copy_(self.windows)
        out = torch.addmm(self.bias, self.around.flatten(2).flatten(0, 1), self.of_row)
        if not self.at_top:
            out.addmm_(self.above.flatten(2).flatten(0, 1), self.of_above)
        self.above, self.around, self.at_top = self.around, self.above, False
        return out


class _Gated:
    """A gated block, rewritten; its buffers hold one row of the grid.

    `terms[:, c]` begins as what the vertical stack says to column c, and is complete once the
    column to its left has been stepped; the place behind the last column is written, never read.
    """

    def __init__(self, block: GatedBlock, batch: int, columns: int) -> None:
        gate_width = block.gate_width
        like = block.out_horizontal.weight
        both = like.new_ones(2 * gate_width)
        both[gate_width:] = 0.5  # sigmoid(o) = (1 + tanh(o / 2)) / 2

        self.norm = block.norm_vertical
        self.kernel = _RowKernel(block.vertical, batch, columns, both)
        cond_weight = block.condition.weight * both.repeat(2)[:, None]  # vertical | horizontal
        cond_bias = block.condition.bias * both.repeat(2)
        self.kernel.bias = self.kernel.bias + cond_bias[: 2 * gate_width]
        self.cond_vertical, self.cond_horizontal = (
            part.T.contiguous() for part in cond_weight.chunk(2)
        )
        self.across = (block.across.weight * both[:, None] / both).T.contiguous()
        out = block.out_vertical
        self.out_vertical = None if out is None else Affine(out.weight.T / 2, out.bias)

        inner = after_norm(block.norm_horizontal, block.horizontal, both.repeat(2).double())
        rightward, own = inner.weight.chunk(2, dim=1)  # (D, 2G) each
        self.inner = torch.cat((own, rightward), dim=1)  # columns c and c + 1, as they lie
        for_right, for_own = inner.bias.chunk(2)
        for_own = for_own + cond_bias[2 * gate_width :]
        self.bias = (for_right + for_own).repeat(columns, 1)
        self.bias[0] = for_own  # nothing is to the left of the first column
        self.outer = torch.cat((block.out_horizontal.weight.T / 2, block.out_horizontal.bias[None]))

        terms = like.new_zeros(batch, (columns + 1) * 2 * gate_width)
        self.terms = terms.unflatten(1, (columns + 1, -1))[:, :columns]  # (B, w, 2G)
        self.own = self.terms.unbind(1)
        self.own_and_right = terms.unfold(1, 4 * gate_width, 2 * gate_width).unbind(1)
        self.turned = like.new_zeros(batch, 2 * gate_width)
        self.value, self.opening = self.turned.chunk(2, dim=1)
        self.gated_and_one = like.new_ones(batch, gate_width + 1)
        self.gated = self.gated_and_one[:, :gate_width]

    def start_row(
        self, vertical: Float[Tensor, "B w D"], cond: Float[Tensor, "positions D"]
    ) -> Float[Tensor, "B w D"]:
        """Run the vertical stack, tell the horizontal one; the next block's vertical input."""
        mixed = self.kernel(self.norm(vertical)).addmm_(cond, self.cond_vertical)
        term = torch.mm(cond, self.cond_horizontal).addmm_(mixed, self.across)
        torch.add(term.view_as(self.terms), self.bias, out=self.terms)
        if self.out_vertical is None:
            return vertical
        value, opening = mixed.tanh_().chunk(2, dim=1)
        gated = torch.addcmul(value, value, opening)
        through = torch.addmm(self.out_vertical.bias, gated, self.out_vertical.weight)
        return vertical + through.view_as(vertical)


class _Attending:
    """A causal attention block, rewritten, with the keys and values of the positions so far."""

    def __init__(self, block: SelfAttention, batch: int, positions: int) -> None:
        like = block.out.weight
        width = like.shape[1]
        scale = like.new_ones(3, width, dtype=torch.float64)
        scale[0] = HEAD_CHANNELS**-0.5  # of queries, hence of scores
        plain = after_norm(block.norm, block.qkv, scale.flatten())
        query_and_key = (part[..., : 2 * width] for part in plain)
        weight, bias = (_quarter_turn(part) for part in query_and_key)  # of queries and keys
        self.inner = torch.cat((plain.weight, weight), dim=1)
        self.inner_bias = torch.cat((plain.bias, bias))
        self.outer, self.outer_bias = block.out.weight.T.contiguous(), block.out.bias
        self.projected = like.new_zeros(batch, 5 * width)
        self.query_and_key, self.value, self.quarter = self.projected.split(
            (2 * width, width, 2 * width), dim=1
        )
        heads = (block.heads, HEAD_CHANNELS)
        self.query = self.query_and_key[:, :width].unflatten(1, heads)  # (B, N, c)
        self.new_key = self.query_and_key[:, width:].unflatten(1, heads)
        self.new_value = self.value.unflatten(1, heads)
        self.keys = like.new_zeros(batch, *heads, positions)
        self.values = like.new_zeros(batch, block.heads, positions, HEAD_CHANNELS)
        self.all_keys, self.all_values = self.keys.flatten(0, 1), self.values.flatten(0, 1)

    def remember(self, position: int) -> None:
        """Keep the key and the value that were projected last."""
        self.keys[:, :, :, position] = self.new_key
        self.values[:, :, position] = self.new_value

    def mixed(self, until: int) -> Float[Tensor, "B D"]:
        """What the query that was projected last finds in the first `until` positions.

        Two products, not `scaled_dot_product_attention`, whose kernel splits one query's work as it
        would that of many: up to twice as fast (measured). Nearly all their time goes into reading
        keys and values from memory, so each lies as its product reads it.
        """
        query = self.query.reshape(-1, 1, HEAD_CHANNELS)  # (B * N, 1, c)
        scores = torch.bmm(query, self.all_keys[:, :, :until])
        return torch.bmm(scores.softmax(dim=2), self.all_values[:, :until]).view(
            len(self.query), -1
        )


def _quarter_turn(x: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
    """(x_i, x_{i + c/2}) -> (-x_{i + c/2}, x_i) in each head; a rotation is x cos + this sin."""
    first, second = x.unflatten(-1, (-1, 2, HEAD_CHANNELS // 2)).unbind(-2)
    return torch.stack((-second, first), dim=-2).flatten(-3)


class CachedDecoder:
    """One pass over a grid, in this order: `start_row`; for each column of it `step`, and for each
    channel `scores` and `write`.

    Memory: a few rows per block, and 2 * B * T * D numbers per attention block.
    """

    def __init__(self, decoder: ColorDecoder, cond: Float[Tensor, "B D h w"]) -> None:
        batch, width, rows, columns = cond.shape
        self.stem, self.head = decoder.stem, decoder.head
        self.channels = self.head.channels
        self.columns = columns
        self.row = self.column = -1
        self.cond = cond.permute(0, 2, 3, 1)  # (B, h, w, D)
        self.shape, self.eps = (width,), self.head.norm.eps

        blocks: list[GatedBlock] = list(decoder.blocks)  # type: ignore[arg-type]
        attention: list[SelfAttention] = list(decoder.attention)  # type: ignore[arg-type]
        assert all(norm.eps == self.eps for norm in _norms(blocks, attention))
        self.gated = [_Gated(block, batch, columns) for block in blocks]
        remaining = iter(attention)
        self.attending = [
            [_Attending(next(remaining), batch, rows * columns) for _ in range(count)]
            for count in decoder.attention_after
        ]
        self.layers = list(zip(self.gated, self.attending, strict=True))
        self.rotation = grid_rotation(rows, columns, cond) if attention else None
        self.turn_all = 4 * width // HEAD_CHANNELS  # halves of heads in a query and a key

        self.read = after_norm(self.head.norm, self.head.hidden)
        out: list[nn.Linear] = list(self.head.out)  # type: ignore[arg-type]
        self.out = [layer.weight.T.contiguous() for layer in out]
        self.out_bias = torch.stack([layer.bias for layer in out])[:, None]  # (C, 1, K)
        self.hidden = self.cond.new_zeros(batch, self.channels * width)
        self.hidden_of = self.hidden.chunk(self.channels, dim=1)
        # Of each token: what the channels after it read (but for the last), what the right does.
        embeddings: list[nn.Embedding] = list(self.stem.embeddings)  # type: ignore[arg-type]
        earlier: list[nn.Embedding] = list(self.head.earlier)  # type: ignore[arg-type]
        self.tables = [F.linear(of.weight, self.stem.horizontal.weight) for of in embeddings]
        for channel, embedding in enumerate(earlier):
            self.tables[channel] = torch.cat((embedding.weight, self.tables[channel]), dim=1)
        self.first = _RowKernel(self.stem.vertical, batch, columns, None)
        # The horizontal stream of each column; the one behind the last is written, never read.
        self.stream = self.cond.new_zeros(columns + 1, batch, width)
        self.streams = self.stream.unbind(0)
        self.written: list[list[Tensor]] = [[] for _ in range(self.channels)]

    def start_row(self, noise: Float[Tensor, "w C B K"] | None = None) -> None:
        """Run the vertical stacks of the next row; the row before must be written whole.

        Args: noise: what `scores` adds to the logits of this row.
        """
        batch, _, columns, width = self.cond.shape
        if self.row >= 0:
            row_above = self.stem.embed(self.row_tokens().unbind(1))  # (B, w, D)
        else:
            row_above = self.cond.new_zeros(batch, columns, width)
        self.row, self.column = self.row + 1, -1
        self.written = [[] for _ in range(self.channels)]

        cond = self.cond[:, self.row].flatten(0, 1)  # (B * w, D)
        vertical = self.first(row_above).view(batch, columns, width)
        self.stream[:-1] = self.stem.across(vertical).transpose(0, 1)
        for gated in self.gated:
            vertical = gated.start_row(vertical, cond)
        if noise is None:
            offsets = self.out_bias.expand(self.columns, -1, len(self.cond), -1)
        else:
            offsets = noise.to(self.out_bias) + self.out_bias
        self.offsets = [of_column.unbind(0) for of_column in offsets.unbind(0)]
        if self.rotation is not None:
            first = self.row * self.columns
            of_row = Rotation(*(table[first : first + self.columns] for table in self.rotation))
            self.cos, self.sin = (table.repeat(1, self.turn_all).unbind(0) for table in of_row)

    def step(self) -> None:
        """Run the trunk and the head's hidden layer at the next column of this row."""
        self.column = column = self.column + 1
        stream = self.streams[column]
        for gated, attending in self.layers:
            normed = torch.layer_norm(stream, self.shape, eps=self.eps)
            gated.own_and_right[column].addmm_(normed, gated.inner)
            torch.tanh(gated.own[column], out=gated.turned)
            torch.addcmul(gated.value, gated.value, gated.opening, out=gated.gated)
            stream.addmm_(gated.gated_and_one, gated.outer)
            for attention in attending:
                self._attend(attention, stream)
        normed = torch.layer_norm(stream, self.shape, eps=self.eps)
        torch.addmm(self.read.bias, normed, self.read.weight, out=self.hidden)

    def scores(self, channel: int) -> Float[Tensor, "B K"]:
        """Logits plus noise of a channel; the channels before it must be written."""
        inner = F.silu(self.hidden_of[channel], inplace=True)
        return torch.addmm(self.offsets[self.column][channel], inner, self.out[channel])

    def write(self, channel: int, token: Int[Tensor, "B"]) -> None:
        """Fix a token of the position `step` was last called for."""
        self.written[channel].append(token)
        told = self.tables[channel].index_select(0, token)  # (B, 2D), the last channel (B, D)
        width = self.shape[0]
        for later in self.hidden_of[channel + 1 :]:
            later.add_(told[:, :width])
        self.streams[self.column + 1].add_(told[:, -width:])

    def row_tokens(self) -> Int[Tensor, "B C w"]:
        """The tokens of the row that was written last."""
        return torch.stack([torch.stack(tokens, dim=1) for tokens in self.written], dim=1)

    def _attend(self, attention: _Attending, stream: Tensor) -> None:
        position = self.row * self.columns + self.column
        normed = torch.layer_norm(stream, self.shape, eps=self.eps)
        torch.addmm(attention.inner_bias, normed, attention.inner, out=attention.projected)
        attention.query_and_key.mul_(self.cos[self.column])
        attention.query_and_key.addcmul_(attention.quarter, self.sin[self.column])
        attention.remember(position)
        mixed = attention.mixed(until=position + 1)
        stream.addmm_(mixed, attention.outer).add_(attention.outer_bias)


def _norms(blocks: list[GatedBlock], attention: list[SelfAttention]) -> list[nn.LayerNorm]:
    return [block.norm_horizontal for block in blocks] + [block.norm for block in attention]
