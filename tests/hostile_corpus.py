"""Files of every kind that photo collections hold, made from numbers, and what must become of each:
odd photos, broken ones, what is no photo, bombs, odd names. `python tests/hostile_corpus.py FOLDER`
writes them there.
"""

import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from crafted_images import (
    jpeg_with,
    png_chunk,
    png_file,
    png_rows,
    saved,
    scan_bomb,
    tiff_file,
)
from lab_data_set import noise
from odd_photos import DUPLICATE, HEIGHT, PICTURE, STORED, WIDTH, Kind, odd_photos
from PIL import Image


def kinds() -> list[Kind]:
    """Every kind that is a file with bytes in it."""
    found = [*odd_photos(), *_broken(), *_not_read(), *_bombs(), *_names()]
    assert len({kind.name for kind in found}) == len(found)
    return found


def large_kinds() -> Iterator[Kind]:
    """Good photos of nearly as many pixels as are allowed: slow to make, and what memory is for."""
    flat = Image.new("RGB", (9900, 9900), (180, 90, 40))
    what = "98 megapixels"
    yield Kind("large.png", what, STORED, saved(flat, "PNG", compress_level=1))
    yield Kind("large.jpg", what, STORED, saved(flat, "JPEG"))
    yield Kind("large progressive.jpg", what, STORED, saved(flat, "JPEG", progressive=True))
    yield Kind("large.tif", what, STORED, saved(flat, "TIFF", compression="tiff_lzw"))
    yield Kind("large.gif", what, STORED, saved(flat.quantize(4), "GIF"))
    faint = Image.new("RGBA", flat.size, (180, 90, 40, 100))
    yield Kind("large faint.png", what, STORED, saved(faint, "PNG", compress_level=1))
    smaller = saved(Image.new("RGB", (4900, 4900), (180, 90, 40)), "WEBP", method=0)
    yield Kind("large.webp", "24 megapixels of WebP", STORED, smaller)
    yield Kind("too large.webp", what, "too_many_pixels", saved(flat, "WEBP", method=0))


def write_corpus(folder: Path) -> dict[str, str]:
    """Write every kind, and what is no plain file; what must become of each, by name."""
    folder.mkdir(parents=True)
    expected = {}
    for kind in kinds():
        path = os.path.join(os.fsencode(folder), os.fsencode(kind.name))
        with open(path, "wb") as file:
            file.write(kind.data)
        expected[kind.name] = kind.becomes
    return expected | _write_places(folder)


PLACES = {
    "pipe.jpg": ("a named pipe", "not_a_file"),
    "broken link.jpg": ("a link that leads nowhere", "vanished"),
    "loop a.jpg": ("a link to a link to itself", "unreadable"),
    "loop b.jpg": ("the same, from the other end", "unreadable"),
    "link.jpg": ("a link to a photo of the collection", DUPLICATE),
    "locked.jpg": ("a file that may not be read", "no_permission"),
    "folder.jpg": ("a folder with the name of a photo: what is in it counts", STORED),
}
"""What is no plain file, or not only: name -> (what, becomes)."""


def _write_places(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken link.jpg").symlink_to("nothing here")
    (folder / "loop a.jpg").symlink_to("loop b.jpg")
    (folder / "loop b.jpg").symlink_to("loop a.jpg")
    (folder / "link.jpg").symlink_to("baseline.jpg")
    (folder / "locked.jpg").write_bytes(_named_photo(900))
    (folder / "locked.jpg").chmod(0)
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(_named_photo(901))
    expected = {name: becomes for name, (_, becomes) in PLACES.items()}
    expected["folder.jpg/inside.png"] = expected.pop("folder.jpg")
    if os.access(folder / "locked.jpg", os.R_OK):  # root may read everything
        expected["locked.jpg"] = STORED
    return expected


def _broken() -> Iterator[Kind]:
    image = Image.fromarray(noise(200, 300, seed=2))
    yield Kind("zero.jpg", "no bytes", "empty", b"")
    jpeg = saved(image, "JPEG", quality=90)
    for share in (1, 10, 50, 99):
        cut = jpeg[: len(jpeg) * share // 100]
        yield Kind(f"cut {share}.jpg", f"JPEG cut at {share} %", "truncated", cut)
    yield Kind("no end.jpg", "JPEG without its last two bytes", "truncated", jpeg[:-2])
    progressive = saved(image, "JPEG", progressive=True)
    cut = progressive[: len(progressive) * 2 // 3]
    yield Kind("cut progressive.jpg", "progressive JPEG cut short", "truncated", cut)
    for kind in ("PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        data = saved(image, kind)
        name = f"cut.{kind.lower()}"
        yield Kind(name, f"{kind} cut in the middle", "truncated", data[: len(data) // 2])
    zeros = jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2)
    yield Kind("zeros.jpg", "JPEG whose second half is zeros", "truncated", zeros)
    hole = jpeg[: len(jpeg) // 2] + bytes(4096) + jpeg[len(jpeg) // 2 + 4096 :]
    yield Kind("hole.jpg", "JPEG with a block of zeros inside", "damaged", hole)
    png = bytearray(saved(image, "PNG"))
    png[png.index(b"IDAT") + 1000] ^= 0xFF
    yield Kind("wrong sum.png", "PNG with a wrong checksum", "damaged", bytes(png))
    headless = jpeg[:2] + jpeg[jpeg.index(b"\xff\xda") :]
    yield Kind("no frame.jpg", "JPEG without a frame header", "damaged", headless)


def _not_read() -> Iterator[Kind]:
    other, none = "unsupported_format", "not_an_image"
    small = Image.fromarray(PICTURE)
    yield Kind("text.png", "text under the name of a photo", none, b"a shopping list\n" * 9)
    yield Kind("page.jpg", "a web page, as failed downloads leave", none, b"<!DOCTYPE html><p>404")
    yield Kind("Thumbs.db", "a system's own files", none, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 64)
    yield Kind("bm.txt", "text that begins like a BMP", none, b"BM is how this text begins" * 4)
    yield Kind("noise.jpg", "random bytes", none, noise(20, 30, seed=3).tobytes())
    yield Kind("drawing.svg", "SVG", other, b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    yield Kind("drawing.xml.svg", "SVG with an XML header", other, b"<?xml version='1.0'?><svg/>")
    yield Kind("page.pdf", "PDF", other, saved(small, "PDF"))
    yield Kind("page.eps", "EPS", other, saved(small, "EPS"))
    yield Kind("phone.heic", "HEIC", other, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    yield Kind("web.avif", "AVIF", other, saved(small, "AVIF"))
    yield Kind("film.mp4", "a film", other, b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(99))
    yield Kind("stars.fits", "FITS", other, b"SIMPLE  =                    T".ljust(2880))
    yield Kind("layers.psd", "Photoshop", other, b"8BPS\0\1" + bytes(99))
    yield Kind("site.ico", "an icon", other, saved(small, "ICO"))
    yield Kind("scan.jp2", "JPEG 2000", other, saved(small, "JPEG2000"))
    jpeg = saved(small, "JPEG")
    yield Kind("12 bit.jpg", "12-bit JPEG", other, jpeg_with(jpeg, 4, 12))
    yield Kind("lossless.jpg", "lossless JPEG", other, jpeg_with(jpeg, 1, 0xC3))


def _bombs() -> Iterator[Kind]:
    many, bomb, small = "too_many_pixels", "decompression_bomb", "too_small"
    side = 50_000
    png = png_file(side, side, 8, 2, bytes(1000))
    yield Kind("50k.png", "PNG of 50,000 x 50,000 in under 1 kB", many, png)
    jpeg = saved(Image.fromarray(PICTURE), "JPEG")
    huge = jpeg
    for offset in (5, 6, 7, 8):
        huge = jpeg_with(huge, offset, 0xFF - offset)
    yield Kind("60k.jpg", "JPEG that says 63,735 x 64,249", many, huge)
    gif = saved(Image.new("P", (1, 1)), "GIF")
    yield Kind("65k.gif", "GIF of 65,535 x 65,535", many, gif[:6] + b"\xff" * 4 + gif[10:])
    bmp = bytearray(saved(Image.new("RGB", (1, 1)), "BMP"))
    bmp[18:26] = (30_000).to_bytes(4, "little") * 2
    yield Kind("30k.bmp", "BMP that says 30,000 x 30,000", many, bytes(bmp))
    yield Kind("30k.tif", "TIFF that says so", many, tiff_file(30_000, 30_000, 3, 8, 2, bytes(99)))
    yield Kind("30k.ppm", "PPM that says so", many, b"P6 30000 30000 255\n" + bytes(99))
    side_bytes = (16_383).to_bytes(3, "little")
    chunk = b"VP8X" + (10).to_bytes(4, "little") + bytes(4) + side_bytes * 2
    webp = saved(Image.fromarray(PICTURE), "WEBP", lossless=True)[12:]
    riff = b"RIFF" + (4 + len(chunk) + len(webp)).to_bytes(4, "little") + b"WEBP" + chunk + webp
    yield Kind("16k.webp", "WebP that says 16,384 x 16,384", many, riff)
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50 << 20), 9))
    rows = png_rows(PICTURE)
    yield Kind(
        "text bomb.png",
        "PNG with 50 MB of packed text",
        bomb,
        png_file(HEIGHT, WIDTH, 8, 2, rows, text),
    )
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50 << 20), 9))
    yield Kind(
        "profile bomb.png",
        "PNG with a packed profile of 50 MB",
        bomb,
        png_file(HEIGHT, WIDTH, 8, 2, rows, profile),
    )
    yield Kind("scans.jpg", "progressive JPEG of 5,000 scans", bomb, scan_bomb(2000, 2000, 5000))
    rest = png_file(HEIGHT, WIDTH, 8, 2, rows + bytes(50 << 20))
    yield Kind(
        "pixel bomb.png", "PNG with 50 MB more pixels than it says", STORED, rest, (), PICTURE
    )
    for height, width in ((1, 1), (1, 20_000), (20_000, 1), (15, 400)):
        flat = saved(Image.new("RGB", (width, height), (90, 120, 30)), "PNG")
        yield Kind(f"{width}x{height}.png", f"{width} x {height} pixels", small, flat)


def _names() -> Iterator[Kind]:
    names = {
        "Größe ☀ 写真.png": "letters of other scripts",
        "line\nbreak.png": "a line break in the name",
        "n" * 251 + ".png": "a name of 255 bytes",
        "bytes \udcff\udcfe.png": "a name that is no UTF-8",
        "-rf *.png": "a name that looks like an option and a glob",
        "'; DROP TABLE photos; --.png": "a name that looks like SQL",
        "CAMERA.PNG": "capital letters",
        "no extension": "no extension",
    }
    for seed, (name, what) in enumerate(names.items(), start=910):
        yield Kind(name, what, STORED, _named_photo(seed))


def _named_photo(seed: int) -> bytes:
    return saved(Image.fromarray(noise(40, 40, seed)), "PNG")


if __name__ == "__main__":
    print(f"{len(write_corpus(Path(sys.argv[1])))} files")
