"""A coloured photo as a file: PNG, JPEG or WebP, which says what it was made from.

Every picture carries an XMP packet (ISO 16684-1; all three formats have a place for it) with

    tintlab:source      the hash of its source's path, so that only that source's output replaces it
    tintlab:recipe      the hash of everything that decides its pixels, so that a picture that is
                        there need not be made again
    DigitalSourceType   IPTC's word for a picture to which a trained model has added

and nothing else: neither the path nor the hash of the photo's bytes can be read from it.
"""

import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tintlab.data.decoding.signatures import ends_early
from tintlab.errors import ConfigError
from tintlab.evaluation.picture import GAP_PX

KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Format by the end of a name."""
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
LARGEST_SIDE_PX = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
"""PNG third edition sec. 11.2.1; libjpeg's JPEG_MAX_DIMENSION; RFC 9649 sec. 2.6."""
JPEG_QUALITY = 95
"""Where none is asked for; colours are stored at full resolution, being what was added."""

_XMP_OF_PNG = "XML:com.adobe.xmp"
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\
<x:xmpmeta xmlns:x="adobe:ns:meta/">\
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""\
 xmlns:tintlab="urn:tintlab:1" tintlab:source="{source}" tintlab:recipe="{recipe}"\
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"\
 Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/\
compositeWithTrainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""
_STAMP = re.compile(rb'tintlab:source="([0-9a-f]{64})" tintlab:recipe="([0-9a-f]{64})"')


class Stamp(NamedTuple):
    """What a picture of ours says about itself."""

    source: str
    recipe: str


class PictureFormat(NamedTuple):
    """How pictures are written."""

    kind: str = "png"
    """png, jpeg or webp."""
    quality: int | None = None
    """1 to 100; None: JPEG_QUALITY, and WebP without loss."""
    side_by_side: bool = False
    """The grey photo and the coloured one in one picture."""
    keep_metadata: bool = False
    """Keep the photo's EXIF, but for what is not true of the picture; see `metadata`."""

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.kind]

    @property
    def keeps_alpha(self) -> bool:
        """Whether transparency is kept; else it is shown on white."""
        return self.kind != "jpeg"

    def check(self) -> "PictureFormat":
        """Itself. Raises: ConfigError: unknown format, or a quality that it has not."""
        if self.kind not in SUFFIXES:
            raise ConfigError(f"format must be one of {', '.join(SUFFIXES)}, got {self.kind}")
        if self.quality is None:
            return self
        if self.kind == "png":
            raise ConfigError("PNG loses nothing and has no quality; give jpeg or webp as --format")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must be in [1, 100], got {self.quality}")
        return self

    def holds(self, height: int, width: int) -> bool:
        """Whether a picture of a photo of this size can be written."""
        total = 2 * width + GAP_PX if self.side_by_side else width
        return max(height, total) <= LARGEST_SIDE_PX[self.kind]


def encoded(
    form: PictureFormat,
    rgb: UInt8[np.ndarray, "H W 3"],
    alpha: UInt8[np.ndarray, "H W"] | None,
    stamp: Stamp,
    exif: bytes = b"",
) -> bytes:
    """The bytes of a picture file; equal for equal arguments.

    Args: exif: see `metadata.kept`; none if empty. alpha: only where the format keeps it.
    """
    assert alpha is None or form.keeps_alpha
    pixels = rgb if alpha is None else np.dstack([rgb, alpha])
    packet = _PACKET.format(**stamp._asdict())
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    beside = {"exif": exif} if exif else {}
    if form.kind == "png":
        info = PngInfo()
        info.add_itxt(_XMP_OF_PNG, packet)
        image.save(out, "PNG", pnginfo=info, **beside)
    elif form.kind == "jpeg":
        quality = form.quality or JPEG_QUALITY
        image.save(out, "JPEG", quality=quality, subsampling="4:4:4", xmp=packet.encode(), **beside)
    else:
        # `exact`: the colours of transparent pixels are the photo's, too.
        loss = {"quality": form.quality} if form.quality else {"lossless": True, "exact": True}
        image.save(out, "WEBP", **loss, xmp=packet.encode(), **beside)
    return out.getvalue()


def stamp_in(content: bytes) -> Stamp | None:
    """What the bytes of a picture of ours say; None for any others."""
    found = _STAMP.search(content)
    return Stamp(found[1].decode(), found[2].decode()) if found else None


def stamp_of(file: Path) -> Stamp | None:
    """What a file says, of which only the header is read; None if it is none of ours."""
    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            packet = image.info.get("xmp")
    except Exception:  # whatever Pillow stumbles over, it is not a picture of ours
        return None
    return stamp_in(packet) if isinstance(packet, bytes) else None


def finished(file: Path, recipe: str) -> bool:
    """Whether a whole picture is there that was made by this very recipe."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    stamp = stamp_in(content)
    whole = content.endswith(b"\xff\xd9") if content.startswith(b"\xff\xd8") else None
    return (
        stamp is not None
        and stamp.recipe == recipe
        and (not ends_early(content) if whole is None else whole)
    )


def source_id(source: Path) -> str:
    """Which source an output was made from, without telling anybody the path."""
    # realpath, and not Path.resolve, which raises where links lead in a circle.
    return hashlib.sha256(os.fsencode(os.path.realpath(source))).hexdigest()


def recipe_of(decisive: dict[str, object]) -> str:
    """The hash of everything that decides a picture's pixels."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
