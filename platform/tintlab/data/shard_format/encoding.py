"""Lab pixels as the integers a shard stores, and back.

    L    code = round(L / 0.0475)                     uint16
    a    code = round(a / 0.0275) + 4096              uint16
    b    code = round(b / 0.045) + 4096               uint16

A plane of codes is stored as two planes of bytes, all high bytes before all low ones, in C order:
`L` is (2, H, W) and `ab` is (2, 2, H, W) = (high and low, a and b, row, column). zstd makes this a
fifth smaller than interleaved 16-bit values, because the high bytes of neighbours are alike.

The steps are the coarsest for which sRGB -> codes -> sRGB is off by at most 1 of 255 in any
channel of any of the 16.7 million colours: of all triples on a grid of 0.0025, the one with the
largest product. What limits them are dark channels of saturated colours, where the sRGB curve is
steep: near cyan, one unit of a moves red by 40 levels.
"""

import cv2
import numpy as np
from jaxtyping import Float32, Int16, UInt8, UInt16

L_STEP, A_STEP, B_STEP = 0.0475, 0.0275, 0.045
AB_OFFSET = 4096
"""Code of a = 0 and of b = 0."""

PARAMETERS: dict[str, str | int | float | None] = {
    "L_step": L_STEP,
    "a_step": A_STEP,
    "b_step": B_STEP,
    "ab_offset": AB_OFFSET,
    "layout": "uint16 codes, plane of high bytes then plane of low bytes, C order",
}
"""What a manifest says about the encoding."""

_AB_STEPS = np.array([A_STEP, B_STEP], np.float32)[:, None, None]
# One affine map; the half makes the cast to integers, which truncates, round to the nearest.
_LAB_TO_CODES = np.array(
    [
        [1 / L_STEP, 0, 0, 0.5],
        [0, 1 / A_STEP, 0, AB_OFFSET + 0.5],
        [0, 0, 1 / B_STEP, AB_OFFSET + 0.5],
    ],
    np.float32,
)


def codes_of(lab: Float32[np.ndarray, "H W 3"]) -> UInt16[np.ndarray, "3 H W"]:
    """The integer codes of L, a and b."""
    codes = cv2.transform(np.ascontiguousarray(lab), _LAB_TO_CODES).astype(np.uint16)
    return np.ascontiguousarray(codes.transpose(2, 0, 1))


def to_bytes(codes: UInt16[np.ndarray, "*planes H W"]) -> bytes:
    """All high bytes in C order, then all low bytes."""
    return (codes >> 8).astype(np.uint8).tobytes() + codes.astype(np.uint8).tobytes()


def codes_from_planes(
    L: UInt8[np.ndarray, "2 H W"], ab: UInt8[np.ndarray, "4 H W"]
) -> UInt16[np.ndarray, "3 H W"]:
    """The integer codes of planes of bytes, as `codes_of` gave them."""
    return np.concatenate([_joined(L), _joined(ab)]).view(np.uint16)


def from_bytes(
    L: bytes | memoryview, ab: bytes | memoryview, height: int, width: int
) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "2 H W"]]:
    """L in [0, 100] and ab in CIE units."""
    L_planes = np.frombuffer(L, np.uint8).reshape(2, height, width)
    ab_planes = np.frombuffer(ab, np.uint8).reshape(4, height, width)
    return from_planes(L_planes, ab_planes)


def from_planes(
    L: UInt8[np.ndarray, "*batch 2 H W"], ab: UInt8[np.ndarray, "*batch 4 H W"]
) -> tuple[Float32[np.ndarray, "*batch H W"], Float32[np.ndarray, "*batch 2 H W"]]:
    """L in [0, 100] and ab in CIE units, of planes of bytes: high before low, a before b."""
    ab_codes = _joined(ab)
    ab_codes -= AB_OFFSET
    return _joined(L)[..., 0, :, :] * np.float32(L_STEP), ab_codes * _AB_STEPS


def _joined(planes: UInt8[np.ndarray, "*batch two_planes H W"]) -> Int16[np.ndarray, "..."]:
    """Codes from their high and low bytes; copied into place, which is faster than shifting."""
    high, low = np.split(planes, 2, axis=-3)
    codes = np.empty((*high.shape, 2), np.uint8)
    codes[..., 0], codes[..., 1] = low, high
    return codes.view("<i2")[..., 0]


def mean_chroma(codes: UInt16[np.ndarray, "3 H W"]) -> float:
    """Mean of sqrt(a^2 + b^2) in CIE units: near 0 for a grey photo."""
    ab = codes[1:].astype(np.float32)
    ab -= AB_OFFSET
    ab *= _AB_STEPS
    # Not cv2.magnitude: its last bit depends on where in memory the planes happen to lie, and the
    # same photo must give the same shard.
    ab *= ab
    chroma = np.sqrt(ab[0] + ab[1])
    return cv2.mean(chroma)[0]
