"""Any number of different JPEG photos of 500x375 px: the size of ImageNet's, as files in a folder.

They are cut, at random places and scales, from the photographs in ../shared/photos where a checkout
has those beside it, else from the ones that come with tintlab's packages.
"""

from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from tintlab.data.decoding.images import Decoded, decode
from tintlab.data.photos import packaged_photos

WIDTH, HEIGHT = 500, 375
QUALITY = 90
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "photos"


def write_jpeg_photos(folder: Path, count: int) -> list[Path]:
    """The first `count` photos of an endless, fixed series."""
    photographs = _photographs()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        draw = np.random.default_rng(number)
        rgb = photographs[number % len(photographs)]
        height, width = rgb.shape[:2]
        smallest = max(HEIGHT / height, WIDTH / width)
        scale = draw.uniform(smallest, max(1.0, smallest))
        tall, wide = round(HEIGHT / scale), round(WIDTH / scale)
        tall, wide = min(tall, height), min(wide, width)
        top, left = draw.integers(height - tall + 1), draw.integers(width - wide + 1)
        part = rgb[top : top + tall, left : left + wide]
        photo = cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        path = folder / f"photo_{number:06}.jpg"
        path.write_bytes(jpeg(photo))
        paths.append(path)
    return paths


def jpeg(rgb: np.ndarray) -> bytes:
    """A JPEG file as cameras and web sites write them: quality 90, half the chroma resolution."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=QUALITY, colorspace="RGB", colorsubsampling="420"
    )


def _photographs() -> list[np.ndarray]:
    if not SHARED.is_dir():
        return list(packaged_photos().values())
    decoded = [decode(path.read_bytes()) for path in sorted(SHARED.glob("*.jpg"))]
    return [photo.rgb for photo in decoded if isinstance(photo, Decoded)]
