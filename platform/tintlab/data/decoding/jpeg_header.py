"""What stands in a JPEG before its first scan: the kind of coding, EXIF, the colour profile.

Sources: ITU-T T.81 annex B (markers), EXIF 2.32 sec. 4.7, ICC.1:2022 annex B.4 (profile in APP2).
"""

from dataclasses import dataclass

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # T.81 table B.1
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_END, _SCAN = 0xD9, 0xDA
_APP1, _APP2, _APP14 = 0xE1, 0xE2, 0xEE
_EXIF, _ICC, _ADOBE = b"Exif\0\0", b"ICC_PROFILE\0", b"Adobe"


@dataclass(frozen=True)
class JpegHeader:
    """The segments that decide how the pixels are to be read."""

    process: int | None
    """Which coding: n of the marker SOFn; None if there is no frame."""
    precision_bits: int | None
    exif: bytes | None
    icc: bytes | None
    """The colour profile; no bytes if parts of it are missing."""
    adobe: bool
    """Written by Adobe's rules: the inks of a CMYK picture are stored inverted."""


def read_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG; None if the file ends before its first scan."""
    process = precision_bits = exif = None
    adobe = False
    icc_parts: dict[int, bytes] = {}
    icc_count = 0
    at = 2
    while True:
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) and data[at] == 0xFF:  # a marker may be padded
            at += 1
        if not 0 <= at < len(data):
            return None
        marker = data[at]
        at += 1
        if marker in _WITHOUT_LENGTH or marker == 0:
            continue
        if marker in (_END, _SCAN):
            break
        end = at + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or end < at + 2:
            return None
        segment = data[at + 2 : end]
        at = end
        if marker in _START_OF_FRAME and segment:
            process, precision_bits = marker - 0xC0, segment[0]
        elif marker == _APP1 and segment.startswith(_EXIF) and exif is None:
            exif = segment
        elif marker == _APP2 and segment.startswith(_ICC) and len(segment) > len(_ICC) + 2:
            number, icc_count = segment[len(_ICC)], segment[len(_ICC) + 1]
            icc_parts[number] = segment[len(_ICC) + 2 :]
        elif marker == _APP14 and segment.startswith(_ADOBE):
            adobe = True
    icc = None
    if icc_parts:
        whole = icc_parts.keys() == set(range(1, icc_count + 1))
        icc = b"".join(icc_parts[number] for number in sorted(icc_parts)) if whole else b""
    return JpegHeader(process, precision_bits, exif, icc, adobe)
