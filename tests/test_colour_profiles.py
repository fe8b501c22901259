"""Colours of photos with ICC profiles, against Pillow's ImageCms and against the mathematics."""

import io
from typing import Any

import numpy as np
import pytest
from crafted_images import saved
from icc_profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    grey_profile,
    ink_profile,
    linear_to_srgb,
    matrix_profile,
    srgb_to_linear,
)
from lab_data_set import noise
from odd_photos import PICTURE
from PIL import Image, ImageCms

from tintlab.data.decoding import colour_profiles
from tintlab.data.decoding.images import Decoded, decode

P3 = matrix_profile(DISPLAY_P3, None)
ADOBE_GAMMA = 563 / 256  # Adobe RGB (1998) Color Image Encoding, sec. 4.3.4.2
ADOBE = matrix_profile(ADOBE_RGB, ADOBE_GAMMA)


def decoded(data: bytes) -> Decoded:
    found = decode(data)
    assert isinstance(found, Decoded), found
    return found


def by_image_cms(image: Image.Image, profile: bytes) -> np.ndarray:
    """What Pillow makes of it on its own."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, source, srgb, outputMode="RGB"))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("profile", [P3, ADOBE], ids=["Display P3", "Adobe RGB"])
def test_wide_gamut_colours_are_those_of_image_cms(
    kind: str, options: dict[str, bool], profile: bytes
) -> None:
    image = Image.fromarray(PICTURE)
    found = decoded(saved(image, kind, icc_profile=profile, **options))
    np.testing.assert_array_equal(found.rgb, by_image_cms(image, profile))
    assert found.notes == ("icc_converted",)
    assert np.abs(found.rgb.astype(int) - PICTURE).max() > 10


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_colours_are_those_of_image_cms(mode: str) -> None:
    profile = {"RGB": P3, "L": grey_profile(1.0), "CMYK": ink_profile()}[mode]
    data = saved(Image.fromarray(PICTURE).convert(mode), "JPEG", quality=90, icc_profile=profile)
    found = decoded(data)
    expected = by_image_cms(Image.open(io.BytesIO(data)), profile)
    assert np.abs(found.rgb.astype(int) - expected).mean() < 0.3  # two builds of libjpeg-turbo
    assert found.notes[-1] == "icc_converted"


@pytest.mark.parametrize(
    ("colorants", "gamma", "profile"),
    [(DISPLAY_P3, None, P3), (ADOBE_RGB, ADOBE_GAMMA, ADOBE)],
    ids=["Display P3", "Adobe RGB"],
)
def test_wide_gamut_colours_are_those_of_the_mathematics(
    colorants: np.ndarray, gamma: float | None, profile: bytes
) -> None:
    values = PICTURE / 255
    linear = srgb_to_linear(values) if gamma is None else values**gamma
    inside = linear @ colorants.T @ np.linalg.inv(SRGB).T
    expected = linear_to_srgb(np.clip(inside, 0, 1)) * 255
    found = decoded(saved(Image.fromarray(PICTURE), "PNG", icc_profile=profile)).rgb
    in_gamut = ((inside > 0) & (inside < 1)).all(axis=2)
    assert in_gamut.mean() > 0.5
    assert np.abs(found - expected)[in_gamut].max() < 1.5


def test_transparency_is_flattened_in_the_colours_of_the_profile() -> None:
    alpha = np.full(PICTURE.shape[:2], 255, np.uint8)
    alpha[:, :64] = 0
    image = Image.fromarray(np.dstack([PICTURE, alpha]))
    found = decoded(saved(image, "PNG", icc_profile=P3))
    assert found.notes == ("alpha_flattened", "icc_converted")
    assert (found.rgb[:, :64] == 255).all()
    expected = by_image_cms(Image.fromarray(PICTURE), P3)
    np.testing.assert_array_equal(found.rgb[:, 64:], expected[:, 64:])


def test_a_profile_for_rgb_in_a_grey_photo_counts() -> None:
    """Cameras write the same profile into every photo."""
    image = Image.fromarray(PICTURE).convert("L")
    wide = matrix_profile(SRGB, 1.0)
    found = decoded(saved(image, "PNG", icc_profile=wide))
    np.testing.assert_array_equal(found.rgb, by_image_cms(image.convert("RGB"), wide))
    assert (found.rgb.max(axis=2) - found.rgb.min(axis=2)).max() <= 1


def test_profiles_that_say_srgb_change_nothing() -> None:
    built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (built_in, matrix_profile(SRGB, None)):
        found = decoded(saved(Image.fromarray(PICTURE), "PNG", icc_profile=profile))
        np.testing.assert_array_equal(found.rgb, PICTURE)
        assert found.notes == ()


def test_a_profile_is_read_once_for_many_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def counted(*arguments: Any, **options: Any) -> object:
        built.append(arguments)
        return build(*arguments, **options)

    build = ImageCms.buildTransform
    monkeypatch.setattr(colour_profiles.ImageCms, "buildTransform", counted)
    colour_profiles._transform.cache_clear()
    for seed in range(5):
        image = Image.fromarray(noise(40, 40, seed))
        decoded(saved(image, "JPEG", icc_profile=ADOBE))
        decoded(saved(image, "PNG", icc_profile=ADOBE))
    assert len(built) == 1


def test_a_profile_that_is_too_large_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour_profiles, "MAX_PROFILE_BYTES", 1000)
    colour_profiles._transform.cache_clear()
    found = decoded(saved(Image.fromarray(PICTURE), "PNG", icc_profile=P3))
    np.testing.assert_array_equal(found.rgb, PICTURE)
    assert found.notes == ("icc_ignored",)
    colour_profiles._transform.cache_clear()
