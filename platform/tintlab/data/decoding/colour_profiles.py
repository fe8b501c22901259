"""Colours of a photo as sRGB, by the ICC profile it carries.

A profile is used as LittleCMS does by default: perceptual intent. One that changes no colour by
more than 1 of 255 is sRGB under some name, as nearly all are, and costs one look-up.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 << 20
"""Larger ones are ignored: printers' are 0.5 to 3 MB, and some are kept in memory."""
CACHED_PROFILES = 16

_PROBE_LEVELS = 9
_SRGB_TOLERANCE = 1  # of 255: LittleCMS rounds sRGB to sRGB as much
_UNUSABLE = (ImageCms.PyCMSError, OSError, ValueError, TypeError)
"""What opening or joining a broken profile raises."""


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    """The image in mode RGB and sRGB's colours, and notes on how it got there.

    Args: image: of mode L, RGB, CMYK or LAB. profile: None if it has none, empty if it is broken.
    """
    if image.mode == "LAB":  # says itself what its numbers mean; profiles in such files only repeat
        return _lab_transform().apply(image), ("lab",)
    notes: tuple[str, ...] = ("cmyk",) if image.mode == "CMYK" else ()
    if profile is None:
        return image.convert("RGB"), notes
    try:
        transform = _transform(profile, image.mode)
    except _UNUSABLE:
        return image.convert("RGB"), (*notes, "icc_ignored")
    if transform is None:
        return image.convert("RGB"), notes
    if transform.input_mode != image.mode:
        image = image.convert(transform.input_mode)
    return transform.apply(image), (*notes, "icc_converted")


def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether pixels of the mode mean the same without the profile."""
    try:
        return _transform(profile, mode) is None
    except _UNUSABLE:
        return False


@lru_cache(maxsize=CACHED_PROFILES)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile's colours to sRGB; None if they are the same.

    Raises: one of _UNUSABLE: the profile is broken, or for pixels of another kind.
    """
    if len(profile) > MAX_PROFILE_BYTES:
        raise ValueError(f"a colour profile of {len(profile)} B")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "L" and source.profile.xcolor_space == "RGB ":
        mode = "RGB"  # cameras put their RGB profile into grey photos as well
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform
    probe = _probe(mode)
    moved = np.asarray(transform.apply(probe), np.int16)
    change = np.abs(moved - np.asarray(probe.convert("RGB")))
    return None if change.max() <= _SRGB_TOLERANCE else transform


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _probe(mode: str) -> Image.Image:
    """An image that holds colours from all over the space."""
    levels = np.linspace(0, 255, _PROBE_LEVELS if mode == "RGB" else 256).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(levels[None])
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    return Image.fromarray(cube.reshape(-1, _PROBE_LEVELS, 3))
