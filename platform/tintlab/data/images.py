"""Photo bytes -> upright RGB, or the reason why not. Nothing a file holds may raise or run here.

JPEG goes through libjpeg-turbo, everything else and every JPEG it refuses through Pillow, with a
list of allowed formats and a cap on the number of pixels that is checked before decoding.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
"""A photo with more pixels is refused before it is decoded."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""Decoders of Pillow that may see the bytes."""

# First bytes: of formats we decode, and of formats we recognise but do not.
_OURS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*", b"GIF8")
_OTHERS = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"<?xml": "XML or SVG",
    b"<svg": "SVG",
    b"SIMPLE  =": "FITS",
    b"8BPS": "Photoshop",
    b"\x00\x00\x01\x00": "an icon",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
}
_ORIENTATION = 0x0112  # EXIF 2.32, tag Orientation
_TURBO_COLORSPACES = ("YCbCr", "Gray", "RGB")  # CMYK and YCCK need Pillow
# What Pillow's decoders raise on damaged files; anything else is a bug of ours and must show.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Warning),
    *(IndexError, KeyError, TypeError, OverflowError),
)


@dataclass(frozen=True)
class Decoded:
    """An upright photo."""

    rgb: UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Undecodable:
    """Why a file is no photo for us: a short code to count by, and a line for people."""

    reason: str
    message: str


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Decoded | Undecodable:
    """The photo in the bytes of a file: EXIF orientation applied, transparency over white, RGB.

    Reasons: empty, not_an_image, unsupported_format, too_many_pixels, truncated, damaged.
    """
    if not data:
        return Undecodable("empty", "the file has no bytes")
    if data.startswith(b"\xff\xd8\xff"):
        decoded = _decode_jpeg(data, max_pixels)
        if decoded is not None:
            return decoded
    return _decode_any(data, max_pixels)


def resize(rgb: UInt8[np.ndarray, "H W 3"], short_side_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with that short side, averaged over areas; a smaller one stays as it is."""
    height, width = rgb.shape[:2]
    short = min(height, width)
    if short <= short_side_px:
        return rgb
    # Integers only, so that every machine rounds alike: halves go up.
    target_w = max((2 * width * short_side_px + short) // (2 * short), 1)
    target_h = max((2 * height * short_side_px + short) // (2 * short), 1)
    return cv2.resize(rgb, (target_w, target_h), interpolation=cv2.INTER_AREA)


def _decode_jpeg(data: bytes, max_pixels: int) -> Decoded | Undecodable | None:
    """A JPEG through libjpeg-turbo; None if Pillow should say what it is."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > max_pixels:
            return _too_many(height, width, max_pixels)
        if colorspace not in _TURBO_COLORSPACES:
            return None
        rgb = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return Decoded(_upright(rgb, _jpeg_orientation(data)))


def _jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG, 1 (upright) if it has none."""
    if b"Exif\0\0" not in data:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:  # an EXIF block that cannot be read says nothing about the orientation
        return 1


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels turned as EXIF says; values outside 1..8 mean nothing and turn nothing."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def _decode_any(data: bytes, max_pixels: int) -> Decoded | Undecodable:
    """Any allowed format, through Pillow."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # Pillow warns from 89 megapixels on; our own cap is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    return _too_many(image.height, image.width, max_pixels)
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        return Undecodable("too_many_pixels", f"more than {max_pixels:,} pixels")
    except UnidentifiedImageError:
        return _unidentified(data)
    except _DAMAGE as error:
        message = " ".join(str(error).split()) or type(error).__name__
        reason = "truncated" if "truncated" in message.lower() else "damaged"
        return Undecodable(reason, message)


def _to_rgb(image: Image.Image) -> Decoded | Undecodable:
    """An image of any of Pillow's modes as 8-bit RGB, transparency flattened on white."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257  # 65535 -> 255
        return Decoded(np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2))
    if image.mode in ("I", "F"):
        message = f"{image.mode} pixels (32-bit) have no defined white"
        return Undecodable("unsupported_format", message)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return Decoded(np.array(image.convert("RGB")))


def _too_many(height: int, width: int, max_pixels: int) -> Undecodable:
    return Undecodable("too_many_pixels", f"{width}x{height} is more than {max_pixels:,} pixels")


def _unidentified(data: bytes) -> Undecodable:
    """Why Pillow did not know the bytes, as far as their beginning tells."""
    if data.startswith(_OURS) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return Undecodable(
            "truncated", f"an image that ends or breaks in its header: {len(data)} B"
        )
    for magic, name in _OTHERS.items():
        if data.lstrip().startswith(magic) or data.startswith(magic):
            return Undecodable("unsupported_format", f"{name} is not read; use one of {FORMATS}")
    if data[4:8] == b"ftyp":
        return Undecodable("unsupported_format", f"HEIF or AVIF is not read; use one of {FORMATS}")
    return Undecodable("not_an_image", "the bytes are of no known image format")
