"""EXIF of a photo that may stand in the picture made from it.

Kept is what is said about the taking of the photo: camera, lens, exposure, time, place, author,
text. Left out is what is said about the old file's pixels, which a picture of other pixels would
make untrue or harmful: the orientation (the picture is upright), the thumbnail (it is grey),
offsets, and maker notes, whose offsets point into the old file. The colour profile is left out as
well: the picture is sRGB, and EXIF says so.

Tags: EXIF 2.32 (CIPA DC-008-2019), sec. 4.6.
"""

import io
import warnings
from typing import Any

from PIL import Image

from tintlab.data.decoding.images import FORMATS

MAX_EXIF_BYTES = 65_000
"""What the one segment of a JPEG can hold (65,533 bytes), with room for its head."""

_ABOUT_THE_PHOTO = (
    0x010E,  # ImageDescription
    0x010F,  # Make
    0x0110,  # Model
    0x0131,  # Software
    0x0132,  # DateTime
    0x013B,  # Artist
    0x8298,  # Copyright
    *range(0x9C9B, 0x9CA0),  # Windows' title, comment, author, keywords, subject
)
_EXIF, _GPS = 0x8769, 0x8825
_ABOUT_OLD_PIXELS = (
    0x927C,  # MakerNote
    0xA005,  # Interoperability, which may speak of Adobe RGB
)
_COLOR_SPACE, _WIDTH, _HEIGHT = 0xA001, 0xA002, 0xA003
_SRGB = 1


def kept(data: bytes, height: int, width: int) -> bytes | None:
    """The EXIF for a picture of that size from the bytes of a photo's file; empty if it has none.

    None: there is some that cannot be read, or too much of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                content = _written(image.getexif(), height, width)
    except Exception:  # whatever Pillow stumbles over, it is not the pixels' fault
        return None
    return content if len(content) <= MAX_EXIF_BYTES else None


def _written(old: Image.Exif, height: int, width: int) -> bytes:
    new = Image.Exif()
    for tag in _ABOUT_THE_PHOTO:
        if tag in old:
            new[tag] = old[tag]
    details: dict[int, Any] = dict(old.get_ifd(_EXIF))
    for tag in _ABOUT_OLD_PIXELS:
        details.pop(tag, None)
    place = dict(old.get_ifd(_GPS))
    if not (new or details or place):
        return b""
    new.get_ifd(_EXIF).update({**details, _COLOR_SPACE: _SRGB, _WIDTH: width, _HEIGHT: height})
    if place:
        new.get_ifd(_GPS).update(place)
    return new.tobytes()
