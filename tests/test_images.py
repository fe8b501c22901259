"""Bytes to upright RGB, or the right reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from lab_data_set import noise, png
from PIL import Image

from tintlab.data.images import Decoded, Undecodable, decode, resize

PICTURE = noise(48, 64, seed=1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    found = decode(data)
    assert isinstance(found, Decoded), found
    return found.rgb


def reason(data: bytes, max_pixels: int = 10**6) -> str:
    found = decode(data, max_pixels)
    assert isinstance(found, Undecodable)
    assert found.message
    return found.reason


def stored_as(rgb: np.ndarray, orientation: int) -> Image.Image:
    """The pixels a camera would store for an upright picture and this orientation (EXIF 2.32)."""
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    return Image.fromarray(np.ascontiguousarray(rgb))


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int) -> None:
    image, exif = stored_as(PICTURE, orientation), with_orientation(orientation)
    np.testing.assert_array_equal(decoded(encoded(image, "PNG", exif=exif)), PICTURE)
    jpeg = decoded(encoded(image, "JPEG", quality=95, subsampling=0, exif=exif))
    assert jpeg.shape == PICTURE.shape
    assert np.abs(jpeg.astype(int) - PICTURE).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_a_meaningless_orientation_turns_nothing(orientation: int) -> None:
    data = encoded(Image.fromarray(PICTURE), "JPEG", exif=with_orientation(orientation))
    assert decoded(data).shape == PICTURE.shape


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(PICTURE), kind, **options)
    np.testing.assert_array_equal(decoded(data), PICTURE)


def test_transparency_is_flattened_on_white() -> None:
    alpha = np.full(PICTURE.shape[:2], 255, np.uint8)
    alpha[:, :32] = 0
    rgba = Image.fromarray(np.dstack([PICTURE, alpha]))
    for data in (encoded(rgba, "PNG"), encoded(rgba.convert("LA"), "PNG")):
        assert (decoded(data)[:, :32] == 255).all()
    np.testing.assert_array_equal(decoded(encoded(rgba, "PNG"))[:, 32:], PICTURE[:, 32:])


def test_grey_palette_one_bit_and_cmyk_become_rgb() -> None:
    image = Image.fromarray(PICTURE)
    for mode, kind in (("L", "JPEG"), ("L", "PNG"), ("P", "GIF"), ("1", "PNG"), ("CMYK", "JPEG")):
        rgb = decoded(encoded(image.convert(mode), kind))
        assert rgb.shape == PICTURE.shape, (mode, kind)
    assert np.abs(decoded(encoded(image.convert("CMYK"), "JPEG")).astype(int) - PICTURE).mean() < 12


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    ramp = np.linspace(0, 65535, 256 * 16).astype(np.uint16).reshape(16, 256)
    rgb = decoded(encoded(Image.fromarray(ramp), "PNG"))
    assert np.abs(rgb[..., 0] - ramp / 257).max() <= 0.5


def test_reasons() -> None:
    image = Image.fromarray(PICTURE)
    assert reason(b"") == "empty"
    assert reason(b"a shopping list\n" * 10) == "not_an_image"
    assert reason(b"%PDF-1.7 and so on") == "unsupported_format"
    assert reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == "unsupported_format"
    assert reason(encoded(Image.new("F", (20, 20)), "TIFF")) == "unsupported_format"
    assert reason(encoded(image, "PNG"), max_pixels=1000) == "too_many_pixels"
    assert reason(encoded(image, "JPEG"), max_pixels=1000) == "too_many_pixels"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_file_that_was_cut_short_is_refused(kind: str, share: float) -> None:
    data = encoded(Image.fromarray(noise(200, 300, seed=2)), kind)
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
