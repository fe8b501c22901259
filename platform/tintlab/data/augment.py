"""What training does to a photo: each a pure function of (photo, random generator).

Where to crop is drawn apart from cropping (`random_place`), because only the pixels of the crop
are read. Colours are changed in Lab: hue is an angle and chroma a radius in the ab plane, and the
lightness, which is what a colorizer is given, stays as it is unless its own gamma is asked for.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, Shaped

from tintlab.data.shards import Photo
from tintlab.settings import DataConfig

AB_LIMIT = 110.0
"""Largest |a| and |b| that bins cover; a more colourful pixel loses chroma and keeps its hue."""


@dataclass(frozen=True)
class Place:
    """A square of a photo; it may reach beyond the photo's border."""

    top: int
    left: int
    side_px: int

    def widened(self, margin_px: int) -> "Place":
        """The same square with a margin on every side."""
        return Place(self.top - margin_px, self.left - margin_px, self.side_px + 2 * margin_px)


def random_place(height: int, width: int, crop_px: int, generator: np.random.Generator) -> Place:
    """A crop of that side, every position equally likely; the photo must be at least as large."""
    top = int(generator.integers(height - crop_px + 1))
    left = int(generator.integers(width - crop_px + 1))
    return Place(top, left, crop_px)


def centre_place(height: int, width: int, crop_px: int) -> Place:
    """The middle crop of that side; the photo must be at least as large."""
    return Place((height - crop_px) // 2, (width - crop_px) // 2, crop_px)


def cut(
    planes: Shaped[np.ndarray, "planes H W"], place: Place
) -> Shaped[np.ndarray, "planes side side"]:
    """The pixels of a place; beyond its border a photo is reflected, the last row not repeated."""
    height, width = planes.shape[1:]
    bottom, right = place.top + place.side_px, place.left + place.side_px
    if place.top >= 0 and place.left >= 0 and bottom <= height and right <= width:
        return planes[:, place.top : bottom, place.left : right]
    rows = _reflected(np.arange(place.top, bottom), height)
    columns = _reflected(np.arange(place.left, right), width)
    return planes[:, rows[:, None], columns]


def margin_px(data: DataConfig) -> int:
    """How far a turned crop may reach beyond the crop it is made from, on each side."""
    if data.rotate_degrees == 0:
        return 0
    radians = math.radians(data.rotate_degrees)
    reach = (math.cos(radians) + math.sin(radians) - 1) * data.crop_px / 2
    return math.ceil(reach) + 1  # the pixel beyond, for interpolation


def augmented(photo: Photo, data: DataConfig, generator: np.random.Generator) -> Photo:
    """Everything a config asks for, on a crop that still has its margin; returns crop_px square."""
    if data.rotate_degrees:
        photo = random_rotation(photo, data.rotate_degrees, margin_px(data), generator)
    if data.flip:
        photo = random_flip(photo, generator)
    if data.hue_degrees:
        photo = random_hue(photo, data.hue_degrees, generator)
    if data.chroma_scale > 1:
        photo = random_chroma(photo, data.chroma_scale, generator)
    if data.lightness_gamma > 1:
        photo = random_lightness_gamma(photo, data.lightness_gamma, generator)
    return photo


def random_flip(photo: Photo, generator: np.random.Generator) -> Photo:
    """Mirrored left to right, half of the time."""
    if generator.random() < 0.5:
        return photo
    return Photo(photo.id, photo.L[:, ::-1], photo.ab[:, :, ::-1])


def random_rotation(
    photo: Photo, max_degrees: float, margin_px: int, generator: np.random.Generator
) -> Photo:
    """Turned about its middle by up to that angle either way, and without its margin afterwards."""
    degrees = generator.uniform(-max_degrees, max_degrees)
    height, width = photo.L.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turn[:, 2] -= margin_px
    inner = (width - 2 * margin_px, height - 2 * margin_px)
    lab = np.dstack([photo.L, *photo.ab])
    L, a, b = cv2.split(cv2.warpAffine(lab, turn, inner, borderMode=cv2.BORDER_REFLECT_101))
    return Photo(photo.id, L, np.stack([a, b]))


def random_hue(photo: Photo, max_degrees: float, generator: np.random.Generator) -> Photo:
    """Every colour turned in the ab plane by the same angle, of up to that size either way."""
    radians = math.radians(generator.uniform(-max_degrees, max_degrees))
    cos, sin = np.float32(math.cos(radians)), np.float32(math.sin(radians))
    a, b = photo.ab
    return replace(photo, ab=_within_limit(np.stack([cos * a - sin * b, sin * a + cos * b])))


def random_chroma(photo: Photo, largest: float, generator: np.random.Generator) -> Photo:
    """Chroma times a factor from 1 / largest to largest, drawn evenly on a logarithmic scale."""
    return replace(photo, ab=_within_limit(photo.ab * _factor(largest, generator)))


def random_lightness_gamma(photo: Photo, largest: float, generator: np.random.Generator) -> Photo:
    """L / 100 to a power from 1 / largest to largest, drawn evenly on a logarithmic scale."""
    power = _factor(largest, generator)
    # Black may be a rounding error below 0, which has no power.
    return replace(photo, L=np.float32(100) * np.power(photo.L.clip(0, 100) / 100, power))


def _factor(largest: float, generator: np.random.Generator) -> np.float32:
    return np.float32(math.exp(generator.uniform(-1, 1) * math.log(largest)))


def _within_limit(ab: Float32[np.ndarray, "2 H W"]) -> Float32[np.ndarray, "2 H W"]:
    """Colours beyond what bins cover, moved towards grey until they are covered."""
    beyond = np.abs(ab).max(axis=0) / np.float32(AB_LIMIT)
    return ab / np.maximum(beyond, np.float32(1))


def _reflected(positions: np.ndarray, length: int) -> np.ndarray:
    """Positions on an endless line as positions in 0..length-1, going back and forth."""
    period = max(2 * (length - 1), 1)
    folded = positions % period
    return np.minimum(folded, period - folded)
