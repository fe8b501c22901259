"""The bytes of a photo -> one row of a shard: decode, resize, Lab, integers."""

import hashlib
from dataclasses import dataclass

from tintlab.color.lab import srgb_to_lab
from tintlab.data.decoding.images import Undecodable, decode
from tintlab.data.shard_format.ab_statistics import AbStatistics, statistics_of
from tintlab.data.shard_format.encoding import codes_of, mean_chroma, to_bytes
from tintlab.data.shard_format.split import coarse_grey, perceptual_hash, small_grey, split_of

ID_CHARACTERS = 16
"""Hexadecimal digits of the content's SHA-256 that name a photo: 64 bits."""


@dataclass(frozen=True)
class Row:
    """One photo as a shard holds it; the names are the columns."""

    id: str
    """First 16 digits of sha256: the same photo has the same id in every data set."""
    sha256: str
    """Of the file's bytes."""
    source: str
    """Where it came from: the name of the source folder, and the path inside it."""
    split: str
    phash: str
    """64-bit perceptual hash as 16 hexadecimal digits."""
    coarse_grey: bytes
    """8x8 grey levels of the whole photo, by which copies are told from photos that hash alike."""
    height: int
    width: int
    chroma: float
    """Mean chroma in CIE units; near 0 means grey."""
    notes: str
    """What decoding had to do beside decoding, such as alpha flattened; words joined by commas."""
    L: bytes
    ab: bytes
    colors: AbStatistics
    """Not a column: summed up in the manifest."""


def make_row(
    data: bytes,
    source: str,
    short_side_px: int | None,
    min_side_px: int,
    max_pixels: int,
) -> Row | Undecodable:
    """The row of a photo, or the reason why it has none."""
    decoded = decode(data, max_pixels, short_side_px)
    if isinstance(decoded, Undecodable):
        return decoded
    height, width = decoded.height, decoded.width
    if min(height, width) < min_side_px:
        message = f"{width}x{height} is smaller than {min_side_px} px on a side"
        return Undecodable("too_small", message)
    grey = small_grey(decoded.rgb)  # before resizing, so that the size wanted hardly matters
    phash = perceptual_hash(grey)
    rgb = decoded.rgb if short_side_px is None else decoded.resized(short_side_px)
    codes = codes_of(srgb_to_lab(rgb))
    sha256 = hashlib.sha256(data).hexdigest()
    return Row(
        id=sha256[:ID_CHARACTERS],
        sha256=sha256,
        source=source,
        split=split_of(phash),
        phash=f"{phash:016x}",
        coarse_grey=coarse_grey(grey),
        height=rgb.shape[0],
        width=rgb.shape[1],
        chroma=mean_chroma(codes),
        notes=",".join(decoded.notes),
        L=to_bytes(codes[0]),
        ab=to_bytes(codes[1:]),
        colors=statistics_of(codes),
    )
