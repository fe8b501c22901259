"""Pictures of a data set: thumbnails, a contact sheet, and the ab histogram in its own colours."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from tintlab.color.lab import lab_to_srgb
from tintlab.data.shard_format.ab_statistics import BIN_WIDTH, BINS, AbStatistics
from tintlab.data.shard_format.split import SPLITS
from tintlab.data.shards import Shards

THUMBNAIL_PX = 96
GAP_PX = 4
TITLE_PX = 18
CELL_PX = 20
"""Side of a histogram cell."""
HISTOGRAM_L = 65.0
"""Lightness at which the histogram's colours are shown: at it, sRGB has room for most of them."""

WHITE = (255, 255, 255)
INK = (40, 40, 40)


def evenly(count: int, wanted: int) -> list[int]:
    """Up to so many of the indices 0..count-1, spread evenly."""
    if count <= wanted:
        return list(range(count))
    return [index * count // wanted for index in range(wanted)]


def thumbnail(shards: Shards, split: str, index: int) -> Image.Image:
    """A photo of a data set, its long side THUMBNAIL_PX."""
    photo = shards.photo(split, index)
    step = max(1, min(photo.L.shape) // (2 * THUMBNAIL_PX))  # converting all of it is not needed
    lab = np.stack([photo.L, *photo.ab], axis=-1)[::step, ::step]
    image = Image.fromarray(lab_to_srgb(np.ascontiguousarray(lab)))
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return image


def data_uri(image: Image.Image) -> str:
    """A picture as a URI that holds it, for a page without other files."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def contact_sheet(shards: Shards, per_split: int = 24, columns: int = 8) -> Image.Image:
    """Photos of each split under its name, in rows."""
    pitch = THUMBNAIL_PX + GAP_PX
    shown = {split: evenly(shards.count(split), per_split) for split in SPLITS}
    heights = [TITLE_PX + math.ceil(len(shown[split]) / columns) * pitch for split in SPLITS]
    sheet = Image.new("RGB", (columns * pitch + GAP_PX, sum(heights) + GAP_PX), WHITE)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    top = GAP_PX
    for split, height in zip(SPLITS, heights, strict=True):
        title = f"{split}: {shards.count(split):,} photos"
        draw.text((GAP_PX, top), title, fill=INK, font=font)
        for place, index in enumerate(shown[split]):
            image = thumbnail(shards, split, index)
            row, column = divmod(place, columns)
            x = GAP_PX + column * pitch + (THUMBNAIL_PX - image.width) // 2
            y = top + TITLE_PX + row * pitch + (THUMBNAIL_PX - image.height) // 2
            sheet.paste(image, (x, y))
        top += height
    return sheet


def ab_histogram(statistics: AbStatistics) -> Image.Image:
    """How often each ab colour occurs, drawn in that colour: the fuller, the more often (log)."""
    counts = np.array(statistics.histogram, np.float64)  # (a, b)
    share = np.log1p(counts) / max(np.log1p(counts.max()), 1e-9)
    centres = (np.arange(BINS) + 0.5 - BINS / 2) * BIN_WIDTH
    # b grows upward and a to the right, as colour diagrams are drawn.
    a, b = np.meshgrid(centres, centres[::-1])
    colours = lab_to_srgb(np.stack([np.full_like(a, HISTOGRAM_L), a, b], axis=-1))
    weight = share.T[::-1, :, None]
    cells = (255 * (1 - weight) + colours * weight).round().astype(np.uint8)
    margin = 34
    side = BINS * CELL_PX
    picture = Image.new("RGB", (side + 2 * margin, side + 2 * margin), WHITE)
    picture.paste(_enlarged(cells), (margin, margin))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    draw.rectangle((margin - 1, margin - 1, margin + side, margin + side), outline=INK)
    middle = margin + side // 2
    draw.line((middle, margin, middle, margin + side), fill=(190, 190, 190))
    draw.line((margin, middle, margin + side, middle), fill=(190, 190, 190))
    for value in (-100, -50, 0, 50, 100):
        at = round(value / BIN_WIDTH * CELL_PX)
        draw.text((middle + at, margin + side + 5), str(value), INK, font, anchor="mt")
        draw.text((margin - 5, middle - at), str(value), INK, font, anchor="rm")
    draw.text((margin + side + 8, middle), "a", INK, font, anchor="lm")
    draw.text((middle, margin - 8), "b", INK, font, anchor="mb")
    title = f"{statistics.pixels:,} pixels of the train split, logarithmic"
    draw.text((margin, 4), title, INK, font)
    return picture


def png(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _enlarged(cells: UInt8[np.ndarray, "rows columns 3"]) -> Image.Image:
    rows, columns = cells.shape[:2]
    size = (columns * CELL_PX, rows * CELL_PX)
    return Image.fromarray(cells).resize(size, Image.Resampling.NEAREST)


def thumbnails(shards: Shards, photos: Sequence[tuple[str, int]]) -> list[tuple[str, Image.Image]]:
    """Some photos (split, index) with their names."""
    return [
        (shards.ids(split, [index])[0], thumbnail(shards, split, index)) for split, index in photos
    ]
