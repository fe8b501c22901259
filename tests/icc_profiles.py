"""ICC profiles made from numbers, for tests of colours. Layout: ICC.1:2001-04 (version 2)."""

import struct

import numpy as np

# Colorants under D50, columns red, green, blue. Sources: SMPTE EG 432-1; Adobe RGB (1998) Color
# Image Encoding; IEC 61966-2-1.
DISPLAY_P3 = np.array(
    [
        [0.515102, 0.291965, 0.157153],
        [0.241182, 0.692236, 0.066582],
        [-0.001050, 0.041882, 0.784378],
    ]
)
ADOBE_RGB = np.array(
    [
        [0.609741, 0.205276, 0.149185],
        [0.311111, 0.625671, 0.063217],
        [0.019470, 0.060867, 0.744568],
    ]
)
SRGB = np.array(
    [
        [0.436066, 0.385147, 0.143066],
        [0.222488, 0.716873, 0.060608],
        [0.013916, 0.097076, 0.714096],
    ]
)
D50 = (0.9642, 1.0, 0.8249)


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, values in [0, 1]."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """The inverse."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def matrix_profile(colorants: np.ndarray, gamma: float | None) -> bytes:
    """An RGB display profile; gamma None means the sRGB curve."""
    curve = _curve(gamma)
    tags = {name: _xyz(*colorants[:, i]) for i, name in enumerate(("rXYZ", "gXYZ", "bXYZ"))}
    return _profile("mntr", "RGB ", "XYZ ", {**tags, "rTRC": curve, "gTRC": curve, "bTRC": curve})


def grey_profile(gamma: float) -> bytes:
    """A grey display profile."""
    return _profile("mntr", "GRAY", "XYZ ", {"kTRC": _curve(gamma)})


def ink_profile() -> bytes:
    """A printer's profile whose 16 corner colours are those of unusually weak inks."""
    corners = []
    for corner in range(16):
        c, m, y, k = (corner >> shift & 1 for shift in (3, 2, 1, 0))
        L = 100 * (1 - 0.6 * k) * (1 - 0.15 * (c + m + y))
        a, b = 40.0 * m - 25 * c, 50.0 * y - 25 * c
        corners += [round(L / 100 * 255), round(a + 128), round(b + 128)]
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(corners)
    return _profile("prtr", "CMYK", "Lab ", {"A2B0": table + ramp * 3})


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    levels = np.round(65535 * srgb_to_linear(np.linspace(0, 1, 1024))).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", levels.size) + levels.tobytes()


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in (x, y, z)))


def _profile(kind: str, space: str, connection: str, tags: dict[str, bytes]) -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {"desc": text, "cprt": b"text" + bytes(4) + b"CC0\0", "wtpt": _xyz(*D50), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name.encode() + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI", start + len(body), 0x02400000)
    header += (kind + space + connection).encode() + struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    header += b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in D50))
    return header.ljust(128, b"\0") + table + body
