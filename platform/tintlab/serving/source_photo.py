"""A photo's file -> the lightness to be coloured, or the reason why there is none."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from tintlab.data.decoding.images import Undecodable, decode
from tintlab.data.sources.photo_bytes import PhotoReader, Place
from tintlab.serving.metadata import kept
from tintlab.serving.painting import lightness, small_copy
from tintlab.serving.picture_file import PictureFormat, stamp_in

COLOURED_LEVELS = 16
COLOURED_SHARE = 0.01
"""A photo has colours of its own if the channels of so many of its pixels differ by so many levels
of 255; a grey one that went through a camera's or a scanner's JPEG differs by a few."""
LOOKED_AT = 1 << 16
"""Pixels that this is judged by, spread evenly."""


@dataclass(frozen=True)
class SourcePhoto:
    """A photo as it is coloured."""

    L: Float32[np.ndarray, "H W"]
    alpha: UInt8[np.ndarray, "H W"] | None
    seen: Float32[np.ndarray, "small_H small_W"]
    """What the model looks at: transparent parts on white, whatever colour hides under them."""
    exif: bytes
    """For the picture; empty if none is wanted or there is none."""
    exif_lost: bool
    """There was EXIF to be kept, and it cannot be."""
    coloured: bool
    """The photo has colours of its own, which are not used."""
    ours: bool
    """It is a picture that was made here."""
    flattened: bool
    """It has transparency, which the format cannot hold."""

    @property
    def pixels(self) -> int:
        return self.L.size


def bytes_of(file: Path) -> bytes | Undecodable:
    """The bytes of a file, or why they cannot be read: as `prepare` says it."""
    with PhotoReader() as reader:
        return reader.read(Place(str(file.absolute())))


def digest_of(content: bytes) -> str:
    """The identity of a photo's bytes."""
    return hashlib.sha256(content).hexdigest()


def photo_in(
    content: bytes, form: PictureFormat, short_side_px: int, stride: int
) -> SourcePhoto | Undecodable:
    """The photo in the bytes of a file, for pictures of a format.

    Args: short_side_px, stride: see `painting.small_copy`.
    """
    try:
        return _photo_in(content, form, short_side_px, stride)
    except Exception as error:  # a photo must never stop those after it
        what = " ".join(str(error).split()) or type(error).__name__
        return Undecodable("unexpected_error", what)


def _photo_in(
    content: bytes, form: PictureFormat, short_side_px: int, stride: int
) -> SourcePhoto | Undecodable:
    decoded = decode(content, keep_alpha=form.keeps_alpha)
    if isinstance(decoded, Undecodable):
        return decoded
    height, width = decoded.height, decoded.width
    if not form.holds(height, width):
        return Undecodable(
            "too_many_pixels",
            f"a {form.kind} picture of {width}x{height} px cannot be written; give --format png",
        )
    L = lightness(decoded.rgb)
    on_white = L if decoded.alpha is None else lightness(_on_white(decoded.rgb, decoded.alpha))
    exif = kept(content, height, width) if form.keep_metadata else b""
    return SourcePhoto(
        L=L,
        alpha=decoded.alpha,
        seen=small_copy(on_white, short_side_px, stride),
        exif=exif or b"",
        exif_lost=exif is None,
        coloured=_has_colours(decoded.rgb),
        ours=stamp_in(content) is not None,
        flattened="alpha_flattened" in decoded.notes,
    )


def _on_white(
    rgb: UInt8[np.ndarray, "H W 3"], alpha: UInt8[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    opaque = alpha[..., None].astype(np.uint16)
    return ((rgb * opaque + 255 * (255 - opaque) + 127) // 255).astype(np.uint8)


def _has_colours(rgb: UInt8[np.ndarray, "H W 3"]) -> bool:
    step = max(1, round((rgb.shape[0] * rgb.shape[1] / LOOKED_AT) ** 0.5))
    some = rgb[::step, ::step]
    range_of = some.max(axis=2) - some.min(axis=2)
    return bool((range_of >= COLOURED_LEVELS).mean() >= COLOURED_SHARE)
