"""sRGB <-> CIE Lab on tensors, for losses: the formulas and constants of `tintlab.color.lab`.

Channels are second, (B, 3, H, W). float64 is kept if given; everything is differentiable, and has a
finite gradient for every finite input.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tintlab.color.lab import (
    CLIP_HIGH,
    CLIP_LOW,
    ENCODED_KNEE,
    F_AT_0,
    F_KNEE,
    F_SLOPE,
    GAMMA,
    LARGEST,
    LINEAR_KNEE,
    OFFSET,
    RGB_TO_T,
    SLOPE,
    T_KNEE,
    T_TO_RGB,
)


def rgb_to_lab_tensor(rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """CIE Lab of sRGB in [0, 1]; differentiable. Half precision is computed in float32.

    Values outside [0, 1] follow the same formulas, so a loss can pull them back.
    """
    rgb = rgb.to(torch.promote_types(rgb.dtype, torch.float32)).clamp(-LARGEST, LARGEST)
    # Each power sees its argument held above the knee: where() discards the other branch's value,
    # but a NaN or infinite gradient there would survive as 0 * inf.
    power = ((rgb.clamp(min=ENCODED_KNEE) + OFFSET) / (1 + OFFSET)).pow(GAMMA)
    linear = torch.where(rgb > ENCODED_KNEE, power, rgb / SLOPE)
    t = _mixed(RGB_TO_T, linear)
    f = torch.where(t > T_KNEE, t.clamp(min=T_KNEE).pow(1 / 3), F_SLOPE * t + F_AT_0)
    fx, fy, fz = f.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def lab_to_rgb_tensor(
    lab: Float[Tensor, "B 3 H W"],
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, ""]]:
    """sRGB in [0, 1] of CIE Lab, and the share of pixels that are out of gamut.

    Differentiable; a clamped channel has gradient 0. Half precision is computed in float32. The
    share has no gradient and counts as `out_of_gamut` does.
    """
    lab = lab.to(torch.promote_types(lab.dtype, torch.float32))
    L, a, b = lab.unbind(1)
    fy = (L + 16) / 116
    f = torch.stack([fy + a / 500, fy, (fy - b / 200).clamp(min=0)], dim=1)
    f = f.clamp(-LARGEST, LARGEST)
    t = torch.where(f > F_KNEE, f * f * f, (f - F_AT_0) / F_SLOPE)
    linear = _mixed(T_TO_RGB, t)
    with torch.no_grad():
        outside = ((linear < CLIP_LOW) | (linear > CLIP_HIGH)).any(dim=1)
        share = outside.to(linear.dtype).mean()
    power = (1 + OFFSET) * linear.clamp(min=LINEAR_KNEE).pow(1 / GAMMA) - OFFSET
    return torch.where(linear > LINEAR_KNEE, power, SLOPE * linear).clamp(0, 1), share


def _mixed(matrix: np.ndarray, channels: Tensor) -> Tensor:
    """`matrix` applied to the channels (B, 3, H, W); not matmul, which autocast makes bfloat16."""
    x, y, z = channels.unbind(1)
    return torch.stack([i * x + j * y + k * z for i, j, k in matrix.tolist()], dim=1)
