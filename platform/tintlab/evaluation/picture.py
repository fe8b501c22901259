"""From planes of L and ab to the pictures people look at, with the photo's lightness kept.

A colour that the screen cannot show would be clipped channel by channel, which changes its
lightness. Here its chroma is reduced instead, toward the grey of the same L, just until it fits:
lightness holds at every pixel, whatever colours a model asks for.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tintlab.color.lab import lab_to_srgb, out_of_gamut
from tintlab.data.storage import written

BISECTION_STEPS = 12
"""Finds the largest chroma within 1/4096 of itself, under 0.05 ab units for the widest colours."""
BAND_PIXELS = 1 << 20
"""Pixels converted at a time, so that a large photo needs no several copies of itself in float."""
GAP_PX = 2
"""White between the pictures of a strip."""

Triple = tuple[UInt8[np.ndarray, "_ _ 3"], UInt8[np.ndarray, "_ _ 3"], UInt8[np.ndarray, "_ _ 3"]]
"""One row of a strip: grey, coloured, truth."""


def into_gamut(
    lab: Float[np.ndarray, "H W 3"],
) -> tuple[Float32[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """Colours with the chroma of those outside sRGB reduced, at unchanged L and hue angle.

    Returns: the colours, and which of them had to be reduced. L itself must lie in [0, 100].
    """
    fitted = lab.astype(np.float32)
    reduced = out_of_gamut(fitted)
    outside = fitted[reduced][None]  # (1, n, 3)
    kept = np.zeros(outside.shape[:2], np.float32)  # share of the chroma known to fit
    tried = outside.copy()
    for i in range(BISECTION_STEPS if outside.size else 0):
        step = np.float32(0.5 ** (i + 1))
        tried[..., 1:] = outside[..., 1:] * (kept + step)[..., None]
        kept += np.where(out_of_gamut(tried), np.float32(0.0), step)
    outside[..., 1:] *= kept[..., None]
    fitted[reduced] = outside[0]
    return fitted, reduced


def joined(
    L: Float[np.ndarray, "H W"], ab: Float[np.ndarray, "2 H W"]
) -> tuple[UInt8[np.ndarray, "H W 3"], int]:
    """The photo of a lightness plane and its colours, as sRGB of exactly that lightness.

    Returns: the photo, and the number of pixels whose chroma was reduced to fit into sRGB.
    """
    height, width = L.shape
    rgb = np.empty((height, width, 3), np.uint8)
    reduced_pixels = 0
    band = max(1, BAND_PIXELS // width)
    for top in range(0, height, band):
        rows = slice(top, top + band)
        lab = np.stack([L[rows], ab[0, rows], ab[1, rows]], axis=-1)
        fitted, reduced = into_gamut(lab)
        rgb[rows] = lab_to_srgb(fitted)
        reduced_pixels += int(reduced.sum())
    return rgb, reduced_pixels


def rgb_from(
    L: Float[np.ndarray, "H W"], ab: Float[np.ndarray, "2 H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The photo of a lightness plane and its colours, as sRGB of exactly that lightness."""
    return joined(L, ab)[0]


def grey_from(L: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """The grey photo a colorizer is given."""
    return rgb_from(L, np.zeros((2, *L.shape), np.float32))


def strip(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
) -> UInt8[np.ndarray, "_ _ 3"]:
    """One picture with a row for each photo, such as grey, coloured, truth, and thin white gaps.

    Pictures of different sizes each stand at the top left of a cell as large as the largest.
    """
    if not rows:
        raise ValueError("a strip needs at least one row, got none")
    columns = max(len(row) for row in rows)
    cell_h = max(picture.shape[0] for row in rows for picture in row)
    cell_w = max(picture.shape[1] for row in rows for picture in row)
    height = len(rows) * (cell_h + GAP_PX) - GAP_PX
    canvas = np.full((height, columns * (cell_w + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (cell_h + GAP_PX), j * (cell_w + GAP_PX)
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def save_png(
    file: Path, rgb: UInt8[np.ndarray, "H W 3"], text: dict[str, str] | None = None
) -> None:
    """Write a PNG, whole or not at all.

    Args: text: what the file says about itself (PNG tEXt); nothing else is stored beside pixels.
    """
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    encoded = io.BytesIO()
    Image.fromarray(rgb).save(encoded, format="PNG", pnginfo=info)
    write_whole(file, encoded.getvalue())


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that its name never shows anything but the whole content.

    The folder is created if need be; a failure leaves the old file, if any, and no other.
    """
    with written(LocalFileSystem(), str(file.absolute())) as stream:
        stream.write(content)
