"""Image files put together byte by byte, for what Pillow reads but does not write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SHORT, LONG = 3, 4  # field types of TIFF 6.0 sec. 2


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_file(
    height: int, width: int, bits: int, colour: int, rows: bytes, *extra: bytes, lace: int = 0
) -> bytes:
    """A PNG of these rows, each with its filter byte.

    Args: colour: 0 grey, 2 RGB, 6 RGBA. lace: 1 if the rows are in Adam7's order.
    """
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, lace)
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_rows(samples: np.ndarray) -> bytes:
    """Rows without filter; 16-bit samples most significant byte first."""
    ordered = samples.astype(samples.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in ordered)


def interlaced_png(rgb: np.ndarray) -> bytes:
    """An RGB PNG in the seven passes of Adam7."""
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2))
    steps = (*passes, (1, 2, 0, 1))
    rows = b"".join(png_rows(rgb[top::down, left::right]) for top, down, left, right in steps)
    return png_file(*rgb.shape[:2], 8, 2, rows, lace=1)


def tiff_file(
    height: int,
    width: int,
    channels: int,
    bits: int,
    photometric: int,
    pixels: bytes,
    sample_format: int = 1,
) -> bytes:
    """An uncompressed TIFF. Args: sample_format: 1 unsigned, 2 signed, 3 float."""
    fields = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [bits] * channels),
        (259, SHORT, [1]),
        (262, SHORT, [photometric]),
        (273, LONG, [8]),
        (277, SHORT, [channels]),
        (278, LONG, [height]),
        (279, LONG, [len(pixels)]),
        (339, SHORT, [sample_format] * channels),
    ]
    directory_at = 8 + len(pixels)
    outside_at = directory_at + 2 + 12 * len(fields) + 4
    directory, outside = struct.pack("<H", len(fields)), b""
    for tag, kind, values in fields:
        data = struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        directory += struct.pack("<HHI", tag, kind, len(values))
        if len(data) <= 4:
            directory += data.ljust(4, b"\0")
        else:
            directory += struct.pack("<I", outside_at + len(outside))
            outside += data
    return b"II*\0" + struct.pack("<I", directory_at) + pixels + directory + bytes(4) + outside


def jpeg_with(data: bytes, offset: int, value: int) -> bytes:
    """A JPEG with one byte of its frame header replaced; offset 1 is the marker itself."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: at + offset] + bytes([value]) + data[at + offset + 1 :]


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_without(data: bytes, start: bytes) -> bytes:
    """A JPEG without the segment whose body begins so."""
    at = data.index(start) - 4
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def ink_jpeg(rgb: np.ndarray, adobe: bool, ycck: bool) -> bytes:
    """A CMYK JPEG without black ink: inverted inks as Adobe stores them, or plain ones."""
    if ycck:  # the inks take the place of RGB in YCbCr
        ycc = np.asarray(Image.fromarray(255 - rgb).convert("YCbCr"))
        stored = np.dstack([ycc, np.full(rgb.shape[:2], 255, np.uint8)])
    else:
        inks = np.dstack([255 - rgb, np.zeros(rgb.shape[:2], np.uint8)])
        stored = 255 - inks if adobe else inks
    # Pillow writes 255 minus what it is given, and always Adobe's marker.
    image = Image.frombytes("CMYK", rgb.shape[1::-1], (255 - stored).tobytes())
    data = saved(image, "JPEG", quality=95)
    if ycck:
        at = data.index(b"Adobe") + 11  # the segment's last byte says how colours are coded
        data = data[:at] + b"\2" + data[at + 1 :]
    return data if adobe else jpeg_without(data, b"Adobe")


def scan_bomb(height: int, width: int, scans: int) -> bytes:
    """A progressive JPEG that goes over its picture again and again without changing it."""
    data = saved(Image.new("L", (width, height), 128), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    third = data.find(b"\xff\xda", second + 2)
    tables = data.rfind(b"\xff\xc4", first, second)
    repeated = data[tables if tables > 0 else second : third if third > 0 else -2]
    return data[:-2] + repeated * scans + data[-2:]
