"""sRGB <-> CIE Lab under D65 for the 2 degree observer, in numpy: what prepares data.

    sRGB --decode--> linear RGB --matrix--> XYZ / white --f--> f(X) f(Y) f(Z) --affine--> L, a, b

L is in [0, 100]; every sRGB colour has a in [-86.2, 98.3] and b in [-107.9, 94.5]. Channels are
last; everything is float32, block by block so that a block stays in the cache. The same for losses
is in `tintlab.color.lab_tensor`: importing torch takes seconds, and no worker that prepares photos
needs it.

Sources: IEC 61966-2-1:1999 (sRGB transfer function and primaries); CIE 15:2018, sec. 8.2.1 (Lab).
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

# Linear sRGB to XYZ, and the D65 white for the 2 degree observer (ASTM E308): the digits that
# scikit-image uses, so that both agree. Their rounding gives greys a chroma of up to 0.006.
RGB_TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
WHITE = np.array([0.95047, 1.0, 1.08883])

# IEC 61966-2-1: a straight line below the knee, a power above it.
GAMMA = 2.4
OFFSET = 0.055
SLOPE = 12.92
ENCODED_KNEE = 0.04045
LINEAR_KNEE = 0.0031308

# CIE 15: f(t) = t^(1/3) above (6/29)^3, below it the tangent there: F_SLOPE * t + 4/29.
F_KNEE = 6 / 29
T_KNEE = F_KNEE**3
F_SLOPE = 1 / (3 * F_KNEE**2)
F_AT_0 = 4 / 29

# A channel clips when it leaves [0, 1] by more than the rounding to 8 bits hides; in linear light.
CLIP_LOW = -0.5 / 255 / SLOPE
CLIP_HIGH = ((1 + 0.5 / 255 + OFFSET) / (1 + OFFSET)) ** GAMMA

# Values are held within this before a power is taken: float32 overflows beyond 1e12 cubed, and a
# colour this far out of gamut is clipped in any case.
LARGEST = 1e6

# 16,384 pixels of three floats are 192 KiB: three such buffers fit a 1 MiB L2 cache. Measured: a
# quarter of it is 17 % slower, four times it is not faster.
BLOCK_PX = 16_384

RGB_TO_T = RGB_TO_XYZ / WHITE[:, None]  # t = (X, Y, Z) / white
T_TO_RGB = np.linalg.inv(RGB_TO_T)

# The tables and matrices of the numpy path.
_ENCODED = np.arange(256) / 255
_DECODED = np.where(
    _ENCODED > ENCODED_KNEE, ((_ENCODED + OFFSET) / (1 + OFFSET)) ** GAMMA, _ENCODED / SLOPE
).astype(np.float32)
_RGB_TO_T32 = RGB_TO_T.astype(np.float32)
_T_TO_RGB32 = T_TO_RGB.astype(np.float32)
# f without a branch: cbrt(max(t, knee)) + F_SLOPE * min(t, knee) - F_SLOPE * knee. The last term
# drops out of a and b, and joins the -16 of L here.
_F_TO_LAB32 = np.array(
    [[0, 116, 0, -16 - 116 * F_SLOPE * T_KNEE], [500, -500, 0, 0], [0, 200, -200, 0]], np.float32
)
_LAB_TO_F32 = np.array(
    [[1 / 116, 1 / 500, 0, 16 / 116], [1 / 116, 0, 0, 16 / 116], [1 / 116, 0, -1 / 200, 16 / 116]],
    np.float32,
)


def srgb_to_lab(rgb: UInt8[np.ndarray, "*batch H W 3"]) -> Float32[np.ndarray, "*batch H W 3"]:
    """CIE Lab of 8-bit sRGB, within 0.0005 of scikit-image's."""
    pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
    lab = np.empty(pixels.shape, np.float32)
    scratch = np.empty((2, 1, min(BLOCK_PX, len(pixels)), 3), np.float32)
    for start in range(0, len(pixels), BLOCK_PX):
        block = pixels[None, start : start + BLOCK_PX]  # OpenCV takes rows of pixels
        f, low = scratch[:, :, : block.shape[1]]
        cv2.transform(cv2.LUT(block, _DECODED), _RGB_TO_T32, dst=f)
        np.minimum(f, T_KNEE, out=low)
        np.maximum(f, T_KNEE, out=f)
        np.cbrt(f, out=f)
        low *= F_SLOPE
        f += low
        cv2.transform(f, _F_TO_LAB32, dst=lab[None, start : start + BLOCK_PX])
    return lab.reshape(rgb.shape)


def lab_to_srgb(lab: Float[np.ndarray, "*batch H W 3"]) -> UInt8[np.ndarray, "*batch H W 3"]:
    """8-bit sRGB of CIE Lab, each channel clipped to the gamut and rounded to the nearest level.

    The exact inverse of `srgb_to_lab` on all 16.7 million colours.
    Raises: ValueError: a value is NaN or infinite.
    """
    pixels = lab.reshape(-1, 3)
    srgb = np.empty(pixels.shape, np.uint8)
    for start in range(0, len(pixels), BLOCK_PX):
        linear = _linear_rgb(pixels[start : start + BLOCK_PX])
        np.clip(linear, 0, 1, out=linear)
        # The two pieces of the transfer function meet at the knee to 1e-7, so they may be added.
        low = np.minimum(linear, LINEAR_KNEE)
        low -= LINEAR_KNEE
        low *= 255 * SLOPE
        np.maximum(linear, LINEAR_KNEE, out=linear)
        np.power(linear, 1 / GAMMA, out=linear)
        linear *= 255 * (1 + OFFSET)
        linear += low
        linear += 0.5 - 255 * OFFSET  # the cast truncates
        srgb[start : start + BLOCK_PX] = linear.astype(np.uint8)
    return srgb.reshape(lab.shape)


def out_of_gamut(lab: Float[np.ndarray, "*batch H W 3"]) -> Bool[np.ndarray, "*batch H W"]:
    """Which pixels no sRGB colour shows: a channel leaves [0, 1] by more than half of 1/255.

    Raises: ValueError: a value is NaN or infinite.
    """
    pixels = lab.reshape(-1, 3)
    outside = np.empty(len(pixels), np.bool_)
    for start in range(0, len(pixels), BLOCK_PX):
        linear = _linear_rgb(pixels[start : start + BLOCK_PX])
        clips = (linear < CLIP_LOW) | (linear > CLIP_HIGH)
        outside[start : start + BLOCK_PX] = clips.any(axis=-1)
    return outside.reshape(lab.shape[:-1])


def _linear_rgb(lab: np.ndarray) -> np.ndarray:
    """Linear RGB (float32, not clipped) of a block of Lab pixels (N, 3)."""
    if not np.isfinite(lab).all():
        raise ValueError("lab must be finite, got NaN or infinity; see what computed it")
    block = np.ascontiguousarray(lab, np.float32)[None]
    f = cv2.transform(block, _LAB_TO_F32)[0]
    np.clip(f, -LARGEST, LARGEST, out=f)
    np.maximum(f[:, 2], 0, out=f[:, 2])  # scikit-image's rule; no visible colour has f(Z) < 4/29
    t = np.minimum(f, F_KNEE)
    t -= F_KNEE
    t *= 1 / F_SLOPE
    np.maximum(f, F_KNEE, out=f)
    t += f * f * f
    return cv2.transform(t[None], _T_TO_RGB32)[0]
