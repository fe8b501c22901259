"""What the bytes of a file tell before, or without, decoding them: the format, and a missing end.

Only asked when decoding has failed, to say why.
"""

import struct

_TIFF, _BIG_TIFF = (b"II*\0", b"MM\0*"), (b"II+\0", b"MM\0+")
_JPEG, _PNG, _GIF, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM"
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Sizes that the second header of a BMP may have."""
_OTHERS = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"<?xml": "XML or SVG",
    b"<svg": "SVG",
    b"SIMPLE  =": "FITS",
    b"8BPS": "Photoshop",
    b"\x00\x00\x01\x00": "an icon",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"IIU\0": "JPEG XR or a raw photo",
    b"FUJIFILM": "a raw photo",
    b"qoif": "QOI",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
}
"""First bytes of formats that we know and do not read."""


def explain(data: bytes) -> tuple[str, str]:
    """Why no decoder knew the bytes, as far as they tell: a reason, and what the format is."""
    if data.startswith(_JPEG):
        return "damaged", "a JPEG without a picture"
    if data.startswith((*_TIFF, *_BIG_TIFF, _PNG, _GIF)) or _is_webp(data) or _is_bmp(data):
        if ends_early(data):
            return "truncated", f"an image that ends in its header: {len(data)} B"
        is_tiff = data.startswith((*_TIFF, *_BIG_TIFF))
        kind = "TIFF with pixels" if is_tiff else "header"
        return "unsupported_format", f"a {kind} of a kind that is not read"
    for magic, name in _OTHERS.items():
        if data.lstrip().startswith(magic) or data.startswith(magic):
            return "unsupported_format", f"{name} is not read"
    if data[4:8] == b"ftyp":
        return "unsupported_format", f"{_media_name(data[8:12])} is not read"
    return "not_an_image", "the bytes are of no known image format"


def is_text(data: bytes) -> bool:
    """Whether the bytes begin like a BMP, as a text may, but are none."""
    return data.startswith(_BMP) and not _is_bmp(data)


def ends_early(data: bytes) -> bool:
    """Whether the file is shorter than it says itself; False for formats that do not say."""
    if data.startswith(_PNG):
        return _png_ends_early(data)
    if _is_webp(data):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(_BMP):
        return len(data) < max(int.from_bytes(data[2:6], "little"), 26)
    if data.startswith(_GIF):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith(_BIG_TIFF):
        return len(data) < 16 or int.from_bytes(
            data[8:16], "little" if data.startswith(b"II") else "big"
        ) >= len(data)
    if data.startswith(_TIFF):
        order = "<" if data.startswith(b"II") else ">"
        if len(data) < 8:
            return True
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        if at + 2 > len(data):
            return True
        (entries,) = struct.unpack_from(f"{order}H", data, at)
        return at + 2 + 12 * entries > len(data)
    return False


def _png_ends_early(data: bytes) -> bool:
    """Whether a PNG ends before its chunk IEND begins."""
    at = 8
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return False
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return True


def _is_bmp(data: bytes) -> bool:
    size = int.from_bytes(data[14:18], "little")
    return data.startswith(_BMP) and (len(data) < 18 or size in _BMP_HEADERS)


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def _media_name(brand: bytes) -> str:
    """The format behind an ISO base media file's brand."""
    if brand.startswith(b"avi"):
        return "AVIF"
    return "HEIF" if brand[:3] in (b"hei", b"hev", b"mif", b"msf") else "a film or audio file"
