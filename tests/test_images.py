"""Bytes to upright RGB, or the right reason."""

import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from crafted_images import saved
from lab_data_set import noise, png
from odd_photos import stored_as
from PIL import Image

from tintlab.data.decoding import images
from tintlab.data.decoding.images import Decoded, Undecodable, decode, resize
from tintlab.data.photos import packaged_photos

PICTURE = noise(48, 64, seed=1)


def decoded(data: bytes) -> np.ndarray:
    found = decode(data)
    assert isinstance(found, Decoded), found
    return found.rgb


def reason(data: bytes, max_pixels: int = 10**6) -> str:
    found = decode(data, max_pixels)
    assert isinstance(found, Undecodable)
    assert found.message
    return found.reason


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    image, exif = Image.fromarray(stored_as(PICTURE, orientation)), with_orientation(orientation)
    np.testing.assert_array_equal(decoded(saved(image, "PNG", exif=exif)), PICTURE)
    jpeg = decoded(saved(image, "JPEG", quality=95, subsampling=0, exif=exif))
    assert jpeg.shape == PICTURE.shape
    assert np.abs(jpeg.astype(int) - PICTURE).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_a_meaningless_orientation_turns_nothing(orientation: int) -> None:
    data = saved(Image.fromarray(PICTURE), "JPEG", exif=with_orientation(orientation))
    assert decoded(data).shape == PICTURE.shape


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(PICTURE), kind, **options)
    np.testing.assert_array_equal(decoded(data), PICTURE)


def test_transparency_is_flattened_on_white() -> None:
    alpha = np.full(PICTURE.shape[:2], 255, np.uint8)
    alpha[:, :32] = 0
    rgba = Image.fromarray(np.dstack([PICTURE, alpha]))
    for data in (saved(rgba, "PNG"), saved(rgba.convert("LA"), "PNG")):
        assert (decoded(data)[:, :32] == 255).all()
    np.testing.assert_array_equal(decoded(saved(rgba, "PNG"))[:, 32:], PICTURE[:, 32:])


def test_reasons() -> None:
    image = Image.fromarray(PICTURE)
    assert reason(b"") == "empty"
    assert reason(b"a shopping list\n" * 10) == "not_an_image"
    assert reason(b"%PDF-1.7 and so on") == "unsupported_format"
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "unsupported_format"
    assert reason(saved(Image.new("F", (20, 20), 2.0), "TIFF")) == "unsupported_format"
    assert reason(saved(image, "PNG"), max_pixels=1000) == "too_many_pixels"
    assert reason(saved(image, "JPEG"), max_pixels=1000) == "too_many_pixels"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_file_that_was_cut_short_is_refused(kind: str, share: float) -> None:
    data = saved(Image.fromarray(noise(200, 300, seed=2)), kind)
    cut = data[: max(int(len(data) * share), 12)]
    assert reason(cut) in ("truncated", "damaged", "not_an_image")
    if kind == "JPEG":
        assert reason(cut) == "truncated"


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(png(PICTURE))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) in ("damaged", "truncated")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    assert reason(b"\x89PNG\r\n\x1a\n" + body, max_pixels=100_000_000) == "too_many_pixels"


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return list(packaged_photos().values())


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    error = ((one.astype(float) - other) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_jpeg_decoded_small_looks_like_one_decoded_in_full(
    shrink: int, photographs: list[np.ndarray]
) -> None:
    found = []
    for rgb in photographs:
        short_side_px = min(rgb.shape[:2]) // (2 * shrink)
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=90)
        small = decode(data, short_side_px=short_side_px)
        assert isinstance(small, Decoded)
        assert small.shrink == shrink
        assert (small.height, small.width) == rgb.shape[:2]
        full = resize(decoded(data), short_side_px)
        found.append(psnr_db(small.resized(short_side_px), full))
    assert min(found) > 35, found
    assert np.mean(found) > 44, found


def test_a_jpeg_is_decoded_in_full_where_less_would_not_do(photographs: list[np.ndarray]) -> None:
    rgb = np.ascontiguousarray(photographs[0][:400, :500])
    data = simplejpeg.encode_jpeg(rgb, quality=90)
    for short_side_px, shrink in ((None, 1), (256, 1), (101, 1), (100, 2), (50, 4), (16, 8)):
        found = decode(data, short_side_px=short_side_px)
        assert isinstance(found, Decoded)
        assert found.shrink == shrink, short_side_px
        assert found.rgb.shape == (400 // shrink, -(-500 // shrink), 3)
    larger = decode(data, short_side_px=1000)
    assert isinstance(larger, Decoded)
    np.testing.assert_array_equal(larger.resized(1000), decoded(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(400, 560), (403, 567)])
def test_a_rotated_photo_decoded_small_is_upright_and_in_place(
    orientation: int, height: int, width: int
) -> None:
    picture = noise(height, width, seed=4)
    image = Image.fromarray(stored_as(picture, orientation))
    data = saved(image, "JPEG", quality=95, exif=with_orientation(orientation))
    small = decode(data, short_side_px=25)
    assert isinstance(small, Decoded)
    # Where a side is no multiple, its last pixels show less; turned, they would be the first.
    assert small.shrink == (8 if height == 400 or orientation == 1 else 1)
    assert (small.height, small.width) == (height, width)
    assert psnr_db(small.resized(25), resize(decoded(data), 25)) > 40


def test_large_files_of_other_formats_are_reduced_before_they_are_copied(
    monkeypatch: pytest.MonkeyPatch, photographs: list[np.ndarray]
) -> None:
    rgb = photographs[0][:331, :473]
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[:, :200] = 90
    data = saved(Image.fromarray(np.dstack([rgb, alpha])), "PNG")
    whole = decoded(data)
    monkeypatch.setattr(images, "BAND_PIXELS", 10_000)
    np.testing.assert_array_equal(decoded(data), whole)
    monkeypatch.setattr(images, "LARGE_PIXELS", 100_000)
    small = decode(data, short_side_px=40)
    assert isinstance(small, Decoded)
    assert (small.shrink, small.rgb.shape) == (4, (83, 119, 3))
    assert small.notes == ("alpha_flattened",)
    assert psnr_db(small.resized(40), resize(whole, 40)) > 40


def test_webp_gets_fewer_pixels_because_it_needs_more_memory_for_each() -> None:
    data = saved(Image.fromarray(PICTURE), "WEBP")
    pixels = PICTURE.shape[0] * PICTURE.shape[1]
    assert reason(data, max_pixels=4 * pixels - 1) == "too_many_pixels"
    assert isinstance(decode(data, max_pixels=4 * pixels), Decoded)


def test_damage_behind_a_harmless_flaw_is_found() -> None:
    """libjpeg-turbo stops at the first warning; a second, worse one must not be overlooked."""
    data = saved(Image.fromarray(noise(200, 300, seed=2)), "JPEG", quality=90)
    odd = data.replace(b"JFIF\0\1", b"JFIF\0\7", 1)
    np.testing.assert_array_equal(decoded(odd), decoded(data))
    assert reason(odd[: len(odd) // 2]) == "truncated"


def test_resize_keeps_the_aspect_and_never_enlarges() -> None:
    assert resize(PICTURE, 24).shape == (24, 32, 3)
    assert resize(PICTURE.transpose(1, 0, 2).copy(), 24).shape == (32, 24, 3)
    assert resize(noise(375, 500, seed=3), 256).shape == (256, 341, 3)
    np.testing.assert_array_equal(resize(PICTURE, 48), PICTURE)
    np.testing.assert_array_equal(resize(PICTURE, 1000), PICTURE)


def test_resize_does_not_alias() -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the small picture can show: it must come out grey
    assert np.abs(resize(stripes, 50).astype(int) - 127).max() < 40
