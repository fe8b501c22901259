"""Tar shards by the WebDataset convention: the images in them, each as a range of bytes.

Members are found by their headers and read by their place, so no tar is unpacked or read whole for
one photo. A member is an image if its name ends like one; others (labels, captions) are no inputs.
Nothing is ever written under a member's name.

A tar that was cut short still gives the photos before the cut, and one problem that stands for
whatever is missing: nobody can know how many photos that would have been.
"""

import io
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from tintlab.data.decoding.images import Undecodable

IMAGE_SUFFIXES = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm"),
        # Not decoded; they are photos all the same, and go to quarantine under that reason.
        *("avif", "heic", "heif", "jp2", "j2k", "jxl", "svg", "psd", "exr", "ico"),
        *("raw", "dng", "cr2", "nef", "arw"),
    )
)
"""Ends of names that mean an image, whether or not it can be decoded."""

BLOCK_BYTES = 512
"""Unit of a tar: POSIX.1-2017, pax, ustar Interchange Format."""


class Member(NamedTuple):
    """One file in a tar."""

    name: str
    first_byte: int
    length_bytes: int
    is_image: bool
    """By its name."""


def members(stream: io.IOBase, length_bytes: int) -> Iterator[Member | tuple[str, Undecodable]]:
    """The files in a tar in their order; with its name, why one cannot be used.

    What is wrong with the tar itself comes last, under an empty name.
    Args: length_bytes: of the whole tar.
    Reasons: empty, not_a_file, truncated, damaged.
    """
    if not length_bytes:
        yield "", Undecodable("empty", "the tar has no bytes")
        return
    images = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would remember every header
                name = member.name
                is_image = _is_image(name)
                if member.issym() or member.islnk() or (member.isreg() and member.issparse()):
                    if is_image:
                        yield name, Undecodable("not_a_file", "a link or a sparse file in a tar")
                    continue
                if not member.isreg():
                    continue
                if member.size < 0:
                    yield "", _damaged(images, "a file has a negative length")
                    return
                if member.offset_data + member.size > length_bytes:
                    yield "", _truncated(images, f"inside {name}")
                    return
                images += is_image
                yield Member(name, member.offset_data, member.size, is_image)
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        what = str(error)
        cut = (
            "end of data" in what or "truncated" in what or (images and length_bytes % BLOCK_BYTES)
        )
        yield "", _truncated(images, "early") if cut else _damaged(images, what)
        return
    # tarfile takes any block that is no header for the end, and says nothing.
    stream.seek(end)
    block = stream.read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        yield "", _truncated(images, "without the mark that ends a tar")
    elif block.strip(b"\0"):
        yield "", _damaged(images, f"no file begins at byte {end}")


def _is_image(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and base.rsplit(".", 1)[-1].lower() in IMAGE_SUFFIXES


def _truncated(images: int, where: str) -> Undecodable:
    return Undecodable(
        "truncated",
        f"the tar ends {where}; the {images} images before were taken, the rest is lost",
    )


def _damaged(images: int, what: str) -> Undecodable:
    return Undecodable("damaged", f"not a whole tar: {what}; {images} images were taken before")
