"""The gray encoder: reads the lightness plane once, not causal.

A strided stem brings L to the chroma grid, residual blocks with growing dilation look around there,
and optional self-attention sees everything. What the stem sees on its way down is kept for the way
up: its features on finer grids guide the upsampler (skip features; Ronneberger et al. 2015, U-Net).
Source of the dilated residual embedding of the gray photo: Royer et al. 2017, Probabilistic Image
Colorization.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tintlab.model.attention import SelfAttention, attention_places, grid_rotation
from tintlab.model.recompute import called
from tintlab.settings import ModelConfig

DILATIONS = (1, 2, 4)
"""Dilation of successive blocks, repeated: 3 blocks reach 7 chroma positions each way, not 3."""


class PositionNorm(nn.Module):
    """LayerNorm over the channels of each position by itself; mixes no positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_norm(kind: str, width: int) -> nn.Module:
    """`batch`, `layer` or `none`."""
    if kind == "batch":
        return nn.BatchNorm2d(width)
    if kind == "layer":
        return PositionNorm(width)
    assert kind == "none"
    return nn.Identity()


class ResidualBlock(nn.Module):
    """norm, SiLU, dilated 3x3, SiLU, 1x1; starts as the identity."""

    def __init__(self, width: int, dilation: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm = make_norm(norm, width)
        self.around = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        inner = F.silu(self.around(F.silu(self.norm(x))))
        return x + self.out(self.drop(inner))


def stem_widths(chroma_stride: int, width: int) -> list[int]:
    """Channels behind each of the stem's halvings, halving themselves towards full resolution."""
    halvings = chroma_stride.bit_length() - 1
    return [max(width >> (halvings - 1 - step), 8) for step in range(halvings)]


def make_stem(chroma_stride: int, width: int) -> nn.Sequential:
    """Stride-2 convolutions down to the chroma grid."""
    widths = [1, *stem_widths(chroma_stride, width)]
    if chroma_stride == 1:
        return nn.Sequential(nn.Conv2d(1, width, 3, padding=1))
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])  # the blocks bring their own activation


class GrayEncoder(nn.Module):
    """L to one vector for each chroma position."""

    recompute: bool = False
    """Keep little within a block for the backward pass (activation checkpointing)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        width = model.width
        self.stem = make_stem(model.chroma_stride, width)
        self.skip_widths = stem_widths(model.chroma_stride, width)[:-1]
        self.blocks = nn.ModuleList(
            ResidualBlock(
                width, DILATIONS[index % len(DILATIONS)], model.encoder_norm, model.dropout
            )
            for index in range(model.depth)
        )
        self.attention_after = attention_places(model.depth, model.encoder_attention_blocks)
        self.attention = nn.ModuleList(
            SelfAttention(width, model.dropout) for _ in range(model.encoder_attention_blocks)
        )
        self.norm_out = make_norm(model.encoder_norm, width)

    def forward(self, L: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B D h w"]:
        """Args: L: lightness in [0, 100]; height and width are multiples of the chroma stride."""
        x = self.stem(_centred(L))  # (B, D, h, w)
        # Channels last in memory: per-position layers then read whole vectors, which halves their
        # time on a CPU (measured), and 3x3 convolutions are no slower.
        x = x.contiguous(memory_format=torch.channels_last)
        attention = iter(self.attention)
        for block, count in zip(self.blocks, self.attention_after, strict=True):
            x = called(block, x, recompute=self.recompute)
            for _ in range(count):
                x = self._attend(next(attention), x)
        return self.norm_out(x)

    def skips(self, L: Float[Tensor, "B 1 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """The stem's features on each grid between photo and chroma grid, the finest first.

        None at chroma strides of 1 and 2. Args: see `forward`.
        """
        x, found = _centred(L), []
        for index in range(len(self.skip_widths)):
            x = F.silu(self.stem[2 * index](x))
            found.append(x)
        return found

    def _attend(self, attention: nn.Module, x: Tensor) -> Tensor:
        rows, columns = x.shape[2:]
        positions = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, T, D)
        rotation = grid_rotation(rows, columns, x)
        mixed = called(attention, positions, rotation, False, recompute=self.recompute)
        return mixed.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)


def _centred(L: Tensor) -> Tensor:
    """Lightness in [0, 100] as [-1, 1]."""
    return L / 50 - 1
