"""What training does to a photo, each a pure function of (photo, random generator)."""

import numpy as np

from tintlab.data.shards import Photo


def random_crop(photo: Photo, crop_px: int, generator: np.random.Generator) -> Photo:
    """A square of that side, every position equally likely; the photo must be at least as large."""
    height, width = photo.L.shape
    top = int(generator.integers(height - crop_px + 1))
    left = int(generator.integers(width - crop_px + 1))
    return _crop(photo, top, left, crop_px)


def centre_crop(photo: Photo, crop_px: int) -> Photo:
    """The middle square of that side; the photo must be at least as large."""
    height, width = photo.L.shape
    return _crop(photo, (height - crop_px) // 2, (width - crop_px) // 2, crop_px)


def random_flip(photo: Photo, generator: np.random.Generator) -> Photo:
    """Mirrored left to right, half of the time."""
    if generator.random() < 0.5:
        return photo
    return Photo(photo.id, photo.L[:, ::-1], photo.ab[:, :, ::-1])


def _crop(photo: Photo, top: int, left: int, crop_px: int) -> Photo:
    rows, columns = slice(top, top + crop_px), slice(left, left + crop_px)
    return Photo(photo.id, photo.L[rows, columns], photo.ab[:, rows, columns])
