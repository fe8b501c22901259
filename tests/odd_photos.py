"""Photos of every odd kind that can be read, made from numbers, and what each must show."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from crafted_images import (
    ink_jpeg,
    interlaced_png,
    jpeg_segment,
    png_file,
    png_rows,
    saved,
    tiff_file,
)
from icc_profiles import ADOBE_RGB, DISPLAY_P3, SRGB, grey_profile, ink_profile, matrix_profile
from lab_data_set import noise
from PIL import Image, ImageCms

STORED, DUPLICATE = "stored", "duplicate"

PICTURE = noise(96, 128, seed=1)
"""What most kinds show."""
GREY = np.asarray(Image.fromarray(PICTURE).convert("L"))
HEIGHT, WIDTH = GREY.shape
LEFT = np.arange(WIDTH) < WIDTH // 2
FADED = np.where(LEFT[:, None], 255, PICTURE).astype(np.uint8)
"""The picture with its left half transparent, on white."""


@dataclass(frozen=True)
class Kind:
    """One file, and what must become of it."""

    name: str
    """Its file name in the corpus."""
    what: str
    becomes: str
    """STORED, DUPLICATE, or a reason code."""
    data: bytes
    notes: tuple[str, ...] = ()
    picture: np.ndarray | None = None
    """What a stored one must show; None if the file's being read is all that matters."""
    off: float = 0.0
    """How far from it the pixels may be on average, in levels of 255."""


def odd_photos() -> Iterator[Kind]:
    """Every kind that can be read, and copies and near misses beside them."""
    yield from (*_jpegs(), *_colours(), *_rotated(), *_pngs(), *_tiffs(), *_others())


def _jpegs() -> Iterator[Kind]:
    image = Image.fromarray(PICTURE)
    baseline = saved(image, "JPEG", quality=95)
    grey = np.dstack([GREY] * 3)

    def good(name: str, what: str, data: bytes, *notes: str, picture: np.ndarray = PICTURE) -> Kind:
        return Kind(name, what, STORED, data, notes, picture, off=4)

    yield good("baseline.jpg", "baseline JPEG", baseline)
    yield Kind("same bytes.jpg", "the same bytes under another name", DUPLICATE, baseline)
    yield good("jpeg.png", "JPEG under a wrong extension", saved(image, "JPEG", quality=94))
    progressive = saved(image, "JPEG", quality=95, progressive=True)
    yield good("progressive.jpg", "progressive JPEG", progressive)
    yield good("grey.jpg", "grey JPEG", saved(image.convert("L"), "JPEG"), picture=grey)
    restarts = saved(image, "JPEG", quality=95, restart_marker_blocks=2)
    yield good("restarts.jpg", "JPEG with restart markers", restarts)
    bgr = np.ascontiguousarray(PICTURE[..., ::-1])
    sampling = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x411111]
    sampled = cv2.imencode(".jpg", bgr, sampling)[1].tobytes()
    yield good("sampling 411.jpg", "JPEG with colours at a quarter of the width", sampled)
    second = Image.fromarray(PICTURE[::-1])
    mpo = saved(image, "MPO", save_all=True, append_images=[second], quality=95)
    yield good("two views.mpo", "MPO: two JPEGs in one file", mpo)
    yield good("trailing.jpg", "JPEG with other bytes after its end", baseline + b"anything" * 99)
    padded = baseline[:-2] + bytes(8) + baseline[-2:]
    yield good("padded.jpg", "JPEG with a few stray bytes before its end", padded)
    version = baseline.replace(b"JFIF\0\1", b"JFIF\0\7", 1)
    yield good("version 7.jpg", "JPEG that says it is JFIF 7", version)
    for adobe, ycck, name in ((1, 0, "CMYK"), (1, 1, "YCCK"), (0, 0, "plain CMYK")):
        what = f"{name} JPEG{', inks inverted as Adobe does' if adobe else ''}"
        inks = ink_jpeg(PICTURE, bool(adobe), bool(ycck))
        yield good(f"{name.lower()}.jpg", what, inks, "cmyk")


def _colours() -> Iterator[Kind]:
    """Profiles; what they must show is computed in test_colour_profiles."""
    image = Image.fromarray(PICTURE)

    def jpeg(profile: bytes, picture: Image.Image = image) -> bytes:
        return saved(picture, "JPEG", quality=95, icc_profile=profile)

    p3, adobe = matrix_profile(DISPLAY_P3, None), matrix_profile(ADOBE_RGB, 563 / 256)
    new, old = ("icc_converted",), ("icc_ignored",)
    yield Kind("p3.jpg", "JPEG in Display P3", STORED, jpeg(p3), new)
    yield Kind("adobe.jpg", "JPEG in Adobe RGB", STORED, jpeg(adobe), new)
    yield Kind("p3.png", "PNG in Display P3", STORED, saved(image, "PNG", icc_profile=p3), new)
    webp = saved(image, "WEBP", lossless=True, icc_profile=adobe)
    yield Kind("adobe.webp", "WebP in Adobe RGB", STORED, webp, new)
    grey = jpeg(grey_profile(1.0), image.convert("L"))
    yield Kind("linear grey.jpg", "grey JPEG with a grey profile", STORED, grey, new)
    inks = saved(image.convert("CMYK"), "JPEG", icc_profile=ink_profile())
    yield Kind("inks.jpg", "CMYK JPEG with a printer's profile", STORED, inks, ("cmyk", *new))
    own = jpeg(matrix_profile(SRGB, None))
    yield Kind("srgb a.jpg", "JPEG with an sRGB profile", STORED, own, (), PICTURE, 3)
    built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Kind("srgb b.jpg", "with another sRGB profile", STORED, jpeg(built_in), (), PICTURE, 3)
    for name, what, profile in (
        ("broken profile.jpg", "JPEG with a broken profile", p3[:200] + bytes(300)),
        ("other profile.jpg", "RGB JPEG with a profile for inks", ink_profile()),
        ("huge profile.png", "PNG with a profile of 5 MB", p3 + bytes(5 << 20)),
    ):
        data = jpeg(profile) if "jpg" in name else saved(image, "PNG", icc_profile=profile)
        # Pillow's own reader stops at 1 MB inside PNG.
        bomb = len(profile) > 1 << 20
        becomes, notes = ("decompression_bomb", ()) if bomb else (STORED, old)
        yield Kind(name, what, becomes, data, notes, None if bomb else PICTURE, off=3)
    part = jpeg_segment(0xE2, b"ICC_PROFILE\0\1\2" + p3[:900])
    plain = saved(image, "JPEG", quality=93)
    half = plain[:2] + part + plain[2:]
    yield Kind("half a profile.jpg", "JPEG with half a profile", STORED, half, old, PICTURE, 4)


def _rotated() -> Iterator[Kind]:
    for orientation in range(1, 9):
        image = Image.fromarray(stored_as(PICTURE, orientation))
        exif = Image.Exif()
        exif[0x0112] = orientation
        notes = ("exif_rotated",) if orientation > 1 else ()
        data = saved(image, "JPEG", quality=95, exif=exif)
        what = f"JPEG with EXIF orientation {orientation}"
        yield Kind(f"exif {orientation}.jpg", what, STORED, data, notes, PICTURE, 3)
        if orientation == 6:
            for kind in ("PNG", "TIFF", "WEBP"):
                options = {"lossless": True} if kind == "WEBP" else {}
                data = saved(image, kind, exif=exif, **options)
                what = f"{kind} with EXIF orientation 6"
                yield Kind(f"exif 6.{kind.lower()}", what, STORED, data, notes, PICTURE)
    jpeg = saved(Image.fromarray(PICTURE), "JPEG", quality=92)
    torn = jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0II*\0\xff\xff") + jpeg[2:]
    ignored = ("exif_ignored",)
    yield Kind("torn exif.jpg", "JPEG with a broken EXIF block", STORED, torn, ignored, PICTURE, 4)


def stored_as(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels a camera would store for an upright picture and this orientation (EXIF 2.32)."""
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb)


def _pngs() -> Iterator[Kind]:
    image = Image.fromarray(PICTURE)
    grey = np.dstack([GREY] * 3)
    clear = np.where(LEFT, 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0)
    seen, flat, deep = (), ("alpha_flattened",), ("deep_grey",)

    def good(name: str, what: str, data: bytes, notes: tuple[str, ...], show: np.ndarray) -> Kind:
        return Kind(name, what, STORED, data, notes, show, off=0.6)

    yield good("rgb.png", "PNG", saved(image, "PNG"), seen, PICTURE)
    yield good("interlaced.png", "interlaced PNG", interlaced_png(PICTURE), seen, PICTURE)
    bits = image.convert("1")
    one = np.asarray(bits.convert("RGB"))
    yield good("one bit.png", "1-bit PNG", saved(bits, "PNG"), seen, one)
    palette = image.quantize(64)
    shown = np.asarray(palette.convert("RGB"))
    yield good("palette.png", "palette PNG", saved(palette, "PNG"), seen, shown)
    hidden = int(np.asarray(palette)[0, 0])
    keyed = saved(palette, "PNG", transparency=bytes([255] * hidden + [0]))
    shown = np.where((np.asarray(palette) == hidden)[..., None], 255, shown)
    yield good("palette alpha.png", "palette PNG with transparency", keyed, flat, shown)
    rgba = Image.fromarray(np.dstack([PICTURE, clear]))
    yield good("rgba.png", "PNG with transparency", saved(rgba, "PNG"), flat, FADED)
    opaque = Image.fromarray(np.dstack([PICTURE, np.full_like(clear, 255)]))
    what = "PNG with transparency that is nowhere used"
    yield good("opaque.png", what, saved(opaque, "PNG"), seen, PICTURE)
    faded = np.where(LEFT[:, None], 255, grey)
    la = Image.fromarray(np.dstack([GREY, clear]))
    yield good("la.png", "grey PNG with transparency", saved(la, "PNG"), flat, faded)
    key = tuple(int(level) for level in PICTURE[0, 0])
    keyed = saved(image, "PNG", transparency=key)
    shown = np.where((key == PICTURE).all(axis=2, keepdims=True), 255, PICTURE)
    yield good("colour key.png", "PNG with one transparent colour", keyed, flat, shown)
    wide = GREY.astype(np.uint16) * 257
    rows = png_rows(wide)
    yield good("16 bit.png", "16-bit grey PNG", png_file(*GREY.shape, 16, 0, rows), deep, grey)
    rows = png_rows(PICTURE.astype(np.uint16) * 257)
    yield good("16 bit rgb.png", "16-bit PNG", png_file(*GREY.shape, 16, 2, rows), seen, PICTURE)
    rows = png_rows(np.dstack([PICTURE, clear]).astype(np.uint16) * 257)
    what = "16-bit PNG with transparency"
    yield good("16 bit rgba.png", what, png_file(*GREY.shape, 16, 6, rows), flat, FADED)
    frames = saved(image, "PNG", save_all=True, append_images=[Image.fromarray(PICTURE[::-1])])
    yield good("animated.png", "animated PNG", frames, ("first_frame",), PICTURE)
    whole = saved(Image.fromarray(PICTURE[:90]), "PNG")
    yield good("no end.png", "PNG that lacks only its end marker", whole[:-12], seen, PICTURE[:90])
    yield good(
        "16 px.png",
        "the smallest size",
        saved(image.crop((0, 0, 16, 16)), "PNG"),
        seen,
        PICTURE[:16, :16],
    )


def _tiffs() -> Iterator[Kind]:
    image = Image.fromarray(PICTURE)
    grey = np.dstack([GREY] * 3)
    wide = GREY.astype("<u2") * 257
    deep = ("deep_grey",)

    def tiff(channels: int, bits: int, meaning: int, pixels: np.ndarray, form: int = 1) -> bytes:
        return tiff_file(HEIGHT, WIDTH, channels, bits, meaning, pixels.tobytes(), form)

    def good(name: str, what: str, data: bytes, *notes: str, show: np.ndarray = PICTURE) -> Kind:
        return Kind(name, what, STORED, data, notes, show, off=1.5)

    yield good("rgb.tif", "TIFF", saved(image, "TIFF"))
    yield good("lzw.tif", "compressed TIFF", saved(image, "TIFF", compression="tiff_lzw"))
    yield good("big.tif", "BigTIFF", saved(image, "TIFF", big_tiff=True))
    yield good("16 bit.tif", "16-bit grey TIFF", tiff(1, 16, 1, wide), *deep, show=grey)
    negative = tiff(1, 16, 0, 65535 - wide)
    yield good("negative.tif", "16-bit grey TIFF where 0 is white", negative, *deep, show=grey)
    rgb16 = tiff(3, 16, 2, PICTURE.astype("<u2") * 257)
    yield good("16 bit rgb.tif", "16-bit TIFF", rgb16)
    twelve = np.unpackbits(
        (GREY.astype(np.uint32) * 4095 // 255).astype(">u2").view(np.uint8)
    ).reshape(-1, 16)[:, 4:]
    packed = tiff(1, 12, 1, np.packbits(twelve))
    yield good("12 bit.tif", "12-bit grey TIFF", packed, *deep, show=grey)
    share = (GREY / 255).astype("<f4")
    yield good("float.tif", "float TIFF, 0 to 1", tiff(1, 32, 1, share, 3), *deep, show=grey)
    inks = saved(image.convert("CMYK"), "TIFF")
    yield good("cmyk.tif", "CMYK TIFF", inks, "cmyk")
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = saved(ImageCms.applyTransform(image, to_lab), "TIFF")
    yield good("lab.tif", "CIE Lab TIFF", lab, "lab")
    pages = saved(image, "TIFF", save_all=True, append_images=[Image.fromarray(PICTURE[::-1])])
    yield good("pages.tif", "TIFF of several pages", pages, "first_frame")
    bits = saved(image.convert("1"), "TIFF", compression="group4")
    yield good(
        "fax.tif", "1-bit fax TIFF", bits, show=np.asarray(image.convert("1").convert("RGB"))
    )
    for name, what, data in (
        ("float 255.tif", "float TIFF above 1", tiff(1, 32, 1, GREY.astype("<f4"), 3)),
        ("nan.tif", "float TIFF with NaN", tiff(1, 32, 1, np.where(share > 0.5, np.nan, share), 3)),
        ("double.tif", "64-bit float TIFF", tiff(1, 64, 1, share.astype("<f8"), 3)),
        ("float rgb.tif", "float RGB TIFF", tiff(3, 32, 2, (PICTURE / 255).astype("<f4"), 3)),
        ("32 bit.tif", "32-bit integer TIFF", tiff(1, 32, 1, GREY.astype("<u4") << 24)),
    ):
        yield Kind(name, what, "unsupported_format", data)


def _others() -> Iterator[Kind]:
    image = Image.fromarray(PICTURE)
    frames = [Image.fromarray(PICTURE[::-1])]
    first = ("first_frame",)
    gif = image.quantize(128)
    shown = np.asarray(gif.convert("RGB"))
    yield Kind("still.gif", "GIF", STORED, saved(gif, "GIF"), (), shown, 0.1)
    moving = saved(gif, "GIF", save_all=True, append_images=frames)
    yield Kind("moving.gif", "animated GIF", STORED, moving, first, shown, 0.1)
    lossless = saved(image, "WEBP", lossless=True)
    yield Kind("lossless.webp", "lossless WebP", STORED, lossless, (), PICTURE)
    yield Kind("lossy.webp", "WebP", STORED, saved(image, "WEBP", quality=95), (), PICTURE, 4)
    moving = saved(image, "WEBP", save_all=True, append_images=frames, lossless=True)
    yield Kind("moving.webp", "animated WebP", STORED, moving, first, PICTURE)
    alpha = np.where(LEFT, 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0)
    rgba = Image.fromarray(np.dstack([PICTURE, alpha]))
    clear = saved(rgba, "WEBP", lossless=True, exact=True)
    yield Kind("clear.webp", "WebP with transparency", STORED, clear, ("alpha_flattened",), FADED)
    yield Kind("rgb.bmp", "BMP", STORED, saved(image, "BMP"), (), PICTURE)
    yield Kind("palette.bmp", "palette BMP", STORED, saved(gif, "BMP"), (), shown, 0.1)
    yield Kind("rgb.ppm", "PPM", STORED, saved(image, "PPM"), (), PICTURE)
    grey = np.dstack([GREY] * 3)
    pgm = b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + (GREY.astype(">u2") * 257).tobytes()
    yield Kind("16 bit.pgm", "16-bit PGM", STORED, pgm, ("deep_grey",), grey, 0.6)
