"""Photo bytes -> upright sRGB, or the reason why not. Nothing a file holds may raise or run here.

    JPEG         libjpeg-turbo, made smaller while it is decoded if a small photo is wanted
    the others   Pillow, with a list of allowed formats; and JPEG that libjpeg-turbo complains of

The number of pixels is checked before decoding. Reasons and notes: `tintlab.data.decoding.reasons`.
"""

import io
import re
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from tintlab.data.decoding.colour_profiles import is_srgb, to_srgb
from tintlab.data.decoding.jpeg_header import JpegHeader, read_header
from tintlab.data.decoding.signatures import ends_early, explain, is_text

MAX_PIXELS = 100_000_000
"""A photo with more pixels is refused before it is decoded."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""Decoders of Pillow that may see the bytes."""

SUFFICIENT = 2
"""Photos are decoded at a reduced size if that is still so many times the size wanted. Against
decoding in full, then resizing: PSNR of 44 to 51 dB on average over 25 photographs, at least 37 in
each (reduced to 1/2, 1/4 and 1/8; wanted 2 to 3 times smaller again). With 1.25: 38 to 44, and 31.
"""

MAX_SCANS = 100
"""Of a JPEG. A progressive one has about ten; each scan passes over the whole picture again, so
thousands of empty ones keep a decoder busy for hours (libjpeg-turbo's own fuzzers stop at 500)."""

WEBP_COST = 4
"""WebP's decoder takes 15 bytes a pixel where others take 4, so it gets fewer pixels."""

BAND_PIXELS = 1 << 22
"""Pillow's pixels are turned into ours so many at a time, which bounds the memory of copies."""
LARGE_PIXELS = 4 * BAND_PIXELS
"""Images of Pillow's with fewer pixels are not reduced before resizing: they fit into memory."""

_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_SCAN = b"\xff\xda"
_JPEG_PROCESSES = (0, 1, 2, 9, 10)  # T.81 table B.1: sequential and progressive, also arithmetic
_JPEG_SHRINKS = (8, 4, 2)  # the ones libjpeg-turbo has fast code for
_LAYOUTS = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}
# What libjpeg-turbo warns of and what does not touch the pixels, such as odd version numbers, or a
# few stray bytes before the end. It stops at the first warning, so Pillow has to look for others.
_HARMLESS = re.compile(
    r"unknown JFIF revision|bad ICC marker|Unknown Adobe color transform"
    r"|Invalid SOS parameters for sequential"
    r"|data: ([1-9]|1[0-6]) extraneous bytes before marker 0xd9"
)
_ORIENTATION = 0x0112  # EXIF 2.32, tag Orientation
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0 sec. 8


@dataclass(frozen=True)
class Decoded:
    """An upright photo."""

    rgb: UInt8[np.ndarray, "H W 3"]
    notes: tuple[str, ...]
    """What had to be done beside decoding: keys of `reasons.NOTES`."""
    height: int
    """Of the whole photo, upright."""
    width: int
    shrink: int
    """rgb has the photo's sides divided by this, rounded up; the border shows less than a pixel."""
    alpha: UInt8[np.ndarray, "H W"] | None = None
    """How opaque each pixel is, if that was to be kept and one is not: then rgb is not on white."""

    def resized(self, short_side_px: int) -> UInt8[np.ndarray, "h w 3"]:
        """As `resize` does it with the whole photo; not more than it was decoded for."""
        return _area_average(self.rgb, self.height, self.width, self.shrink, short_side_px)


@dataclass(frozen=True)
class Undecodable:
    """Why a file is no photo for us: a short code to count by, and a line for people."""

    reason: str
    """A key of `reasons.REASONS`."""
    message: str


def decode(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    short_side_px: int | None = None,
    keep_alpha: bool = False,
) -> Decoded | Undecodable:
    """The photo in the bytes of a file: upright, in sRGB, transparency over white.

    Args: short_side_px: the photo will be resized to this, so a reduced one may do; None: in full.
        keep_alpha: of a photo in full; transparency comes beside the colours, not over white.
    Reasons: empty, not_an_image, unsupported_format, too_many_pixels, decompression_bomb,
        truncated, damaged.
    """
    assert short_side_px is None or not keep_alpha, "a reduced photo has no alpha"
    if not data:
        return Undecodable("empty", "the file has no bytes")
    if data.startswith(_JPEG_MAGIC):
        decoded = _decode_jpeg(data, max_pixels, short_side_px)
        if decoded is not None:
            return decoded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Pillow warns from 89 megapixels on; our own cap is checked below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return _decode_any(data, max_pixels, short_side_px, keep_alpha)


def resize(rgb: UInt8[np.ndarray, "H W 3"], short_side_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with that short side, averaged over areas; a smaller one stays as it is."""
    return _area_average(rgb, rgb.shape[0], rgb.shape[1], 1, short_side_px)


def _area_average(
    rgb: np.ndarray, height: int, width: int, shrink: int, short_side_px: int
) -> np.ndarray:
    short = min(height, width)
    if short <= short_side_px:
        assert shrink == 1, "decoded for a smaller size"
        return rgb
    # Integers only, so that every machine rounds alike: halves go up.
    target_w = max((2 * width * short_side_px + short) // (2 * short), 1)
    target_h = max((2 * height * short_side_px + short) // (2 * short), 1)
    # Factors, not a size: the last pixels of a reduced photo lie partly outside of it, and OpenCV
    # leaves that part out of the average.
    fx, fy = target_w * shrink / width, target_h * shrink / height
    small = cv2.resize(rgb, None, fx=fx, fy=fy, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[:target_h, :target_w])


def _decode_jpeg(
    data: bytes, max_pixels: int, short_side_px: int | None
) -> Decoded | Undecodable | None:
    """A JPEG through libjpeg-turbo; None if Pillow should try it."""
    header = read_header(data)
    if header is None:
        return Undecodable("truncated", "the file ends in its header")
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (
        Exception
    ):  # colours sampled or coded in a way it has no fast code for, or no JPEG at all
        return None
    if height * width > max_pixels:
        return _too_many(height, width, max_pixels)
    if header.process not in _JPEG_PROCESSES or header.precision_bits != 8:
        kind = f"coding process {header.process} with {header.precision_bits} bits"
        return Undecodable("unsupported_format", f"JPEG {kind} is not read")
    if space not in _LAYOUTS:
        return None
    if data.count(_JPEG_SCAN) > MAX_SCANS:
        return Undecodable("decompression_bomb", f"more than {MAX_SCANS} scans over the picture")

    orientation, notes = _orientation(header.exif)
    shrink = _shrink(height, width, short_side_px, _JPEG_SHRINKS, whole=orientation != 1)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, _LAYOUTS[space], min_height=-(-height // shrink), min_width=-(-width // shrink)
        )
    except Exception as error:
        message = str(error)
        if _HARMLESS.search(message):
            return None
        return Undecodable("truncated" if "Premature end" in message else "damaged", message)
    rgb, colour_notes = _jpeg_colours(pixels, header)
    rgb = _upright(rgb, orientation)
    if orientation >= 5:
        height, width = width, height
    return Decoded(rgb, (*notes, *colour_notes), height, width, shrink)


def _jpeg_colours(pixels: np.ndarray, header: JpegHeader) -> tuple[np.ndarray, tuple[str, ...]]:
    """RGB from the channels of a JPEG, and notes."""
    height, width, channels = pixels.shape
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
    if mode != "CMYK" and (header.icc is None or is_srgb(header.icc, mode)):  # nearly always
        return (pixels if mode == "RGB" else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)), ()
    if mode == "CMYK" and header.adobe:
        np.invert(pixels, out=pixels)
    image = Image.frombytes(mode, (width, height), pixels)
    rgb, notes = to_srgb(image, header.icc)
    return np.array(rgb), notes


def _orientation(exif: bytes | None) -> tuple[int, tuple[str, ...]]:
    """The EXIF orientation, 1 (upright) if there is none that means anything, and notes."""
    if exif is None:
        return 1, ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tags = Image.Exif()
            tags.load(exif)
            return _meaning(tags.get(_ORIENTATION, 1))
    except Exception:  # whatever Pillow stumbles over, it says nothing about the orientation
        return 1, ("exif_ignored",)


def _meaning(orientation: object) -> tuple[int, tuple[str, ...]]:
    if isinstance(orientation, int) and 2 <= orientation <= 8:
        return orientation, ("exif_rotated",)
    return 1, ()


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels turned as EXIF says."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def _shrink(
    height: int, width: int, short_side_px: int | None, factors: tuple[int, ...], whole: bool
) -> int:
    """The largest of the factors, largest first, that leaves a sufficient size; else 1.

    Args: whole: no pixel at the border may show less than the others, as it may have to move.
    """
    if short_side_px is None:
        return 1
    for factor in factors:
        divides = height % factor == 0 and width % factor == 0
        if min(height, width) >= SUFFICIENT * short_side_px * factor and (divides or not whole):
            return factor
    return 1


def _decode_any(
    data: bytes, max_pixels: int, short_side_px: int | None, keep_alpha: bool
) -> Decoded | Undecodable:
    """Any allowed format, through Pillow."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        limit = max_pixels // WEBP_COST if image.format == "WEBP" else max_pixels
        if image.width * image.height > limit:
            return _too_many(image.height, image.width, limit)
        notes = ["first_frame"] if getattr(image, "is_animated", False) else []
        if image.format == "TIFF":  # which Pillow turns upright on loading
            notes += _meaning(image.getexif().get(_ORIENTATION, 1))[1]
        image.load()
    except Image.DecompressionBombError as error:
        return Undecodable("too_many_pixels", str(error).split(",")[0])
    except Exception as error:  # whatever a decoder raises on a file is about the file
        if isinstance(error, UnidentifiedImageError) or is_text(data):
            return Undecodable(*explain(data))
        return _refusal(data, " ".join(str(error).split()) or type(error).__name__)

    try:
        orientation, turned = _meaning(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as for JPEG
        orientation, turned = 1, ("exif_ignored",)
    notes += turned
    if header := read_header(data) if data.startswith(_JPEG_MAGIC) else None:
        profile = header.icc  # Pillow says nothing of a broken one
    else:
        profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _grey8(image)
        if isinstance(grey, Undecodable):
            return grey
        image = grey
        notes.append("deep_grey")
    shrink = 1
    if image.width * image.height > LARGE_PIXELS and short_side_px is not None:
        factors = tuple(range(min(image.size) // (SUFFICIENT * short_side_px), 1, -1))
        shrink = _shrink(image.height, image.width, short_side_px, factors, orientation != 1)
    alpha = _alpha(image) if keep_alpha and image.has_transparency_data else None
    pixels = _srgb_pixels(image, profile, shrink, notes, flatten=alpha is None)
    if alpha is not None:
        alpha = _upright(alpha, orientation)
    width, height = image.size if orientation < 5 else image.size[::-1]
    rgb = _upright(pixels, orientation)
    return Decoded(rgb, tuple(dict.fromkeys(notes)), height, width, shrink, alpha)


def _refusal(data: bytes, message: str) -> Undecodable:
    """The reason behind an error of one of Pillow's decoders."""
    lowered = message.lower()
    if "too large" in lowered or "too much memory" in lowered:  # text and profiles inside PNG
        return Undecodable("decompression_bomb", message)
    if "truncated" in lowered or ends_early(data):
        return Undecodable("truncated", message)
    if "unsupported" in lowered or "not supported" in lowered:
        return Undecodable("unsupported_format", message)
    return Undecodable("damaged", message)


def _srgb_pixels(
    image: Image.Image, profile: bytes | None, shrink: int, notes: list[str], flatten: bool = True
) -> np.ndarray:
    """An image of any of Pillow's modes in sRGB, averaged over squares of that side.

    Args: flatten: put transparent parts on white; else their colours are as the file has them.
    """
    rgb = np.empty((-(-image.height // shrink), -(-image.width // shrink), 3), np.uint8)
    step = max(BAND_PIXELS // image.width // shrink, 1) * shrink
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        band = image.crop((0, top, image.width, bottom))
        band = _without_alpha(band, notes) if flatten else _opaque(band)[0]
        if band.mode not in ("L", "CMYK", "LAB"):
            band = band.convert("RGB")
        band, colour_notes = to_srgb(band, profile)
        notes += colour_notes
        if shrink > 1:
            band = band.reduce(shrink)
        rgb[top // shrink : -(-bottom // shrink)] = np.asarray(band)
    return rgb


def _without_alpha(image: Image.Image, notes: list[str]) -> Image.Image:
    """The image over white, if it has transparency."""
    if not image.has_transparency_data:
        return image
    colours, alpha = _opaque(image)
    if alpha.getextrema() == (255, 255):
        return colours
    notes.append("alpha_flattened")
    white = Image.new(colours.mode, image.size, "white")
    white.paste(colours, mask=alpha)
    return white


def _opaque(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The colours of an image that has transparency, and how opaque each pixel is."""
    if image.mode in ("1", "L", "LA", "La"):
        image, opaque = image.convert("LA"), "L"
    else:
        image, opaque = image.convert("RGBA"), "RGB"
    return image.convert(opaque), image.getchannel("A")


def _alpha(image: Image.Image) -> np.ndarray | None:
    """How opaque each pixel of an image with transparency is; None if all are."""
    alpha = np.empty((image.height, image.width), np.uint8)
    step = max(BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, step):
        band = image.crop((0, top, image.width, min(top + step, image.height)))
        alpha[top : top + band.height] = np.asarray(_opaque(band)[1])
    return None if alpha.min() == 255 else alpha


def _grey8(image: Image.Image) -> Image.Image | Undecodable:
    """Grey of more than 8 bits, rounded to 8; its white is the largest number it can hold."""
    white, negative = 65535.0, False
    if image.mode == "F":
        white = 1.0
    elif image.mode == "I" and image.format != "PPM":  # Pillow stretches PPM to 16 bits
        message = "signed or 32-bit integer pixels have no defined white"
        return Undecodable("unsupported_format", message)
    elif image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        white = 2.0 ** tags.get(_BITS, (16,))[0] - 1
        negative = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # which Pillow leaves to us here
    levels = np.empty((image.height, image.width), np.uint8)
    step = max(BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, step):
        band = image.crop((0, top, image.width, min(top + step, image.height)))
        shares = np.asarray(band, np.float32) / np.float32(white)
        if not (shares.min() >= 0 and shares.max() <= 1):  # also true of what is not a number
            message = "float pixels outside 0 to 1 have no defined white"
            return Undecodable("unsupported_format", message)
        levels[top : top + band.height] = (1 - shares if negative else shares) * 255 + 0.5
    return Image.fromarray(levels)


def _too_many(height: int, width: int, max_pixels: int) -> Undecodable:
    return Undecodable("too_many_pixels", f"{width}x{height} is more than {max_pixels:,} pixels")
