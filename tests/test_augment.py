"""Augmentation: what each change does to a photo, and that it depends on nothing but its draw."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from tintlab.data.augment import (
    AB_LIMIT,
    Place,
    augmented,
    centre_place,
    cut,
    margin_px,
    random_chroma,
    random_flip,
    random_hue,
    random_lightness_gamma,
    random_place,
    random_rotation,
)
from tintlab.data.shards import Photo
from tintlab.settings import DataConfig

Change = Callable[[Photo, np.random.Generator], Photo]
CHANGES: dict[str, Change] = {
    "flip": random_flip,
    "rotation": lambda photo, generator: random_rotation(photo, 20.0, 4, generator),
    "hue": lambda photo, generator: random_hue(photo, 90.0, generator),
    "chroma": lambda photo, generator: random_chroma(photo, 2.0, generator),
    "gamma": lambda photo, generator: random_lightness_gamma(photo, 2.0, generator),
}
EVERYTHING = DataConfig(
    crop_px=16, rotate_degrees=15, hue_degrees=30, chroma_scale=1.5, lightness_gamma=1.3
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photo_of(height: int = 30, width: int = 40) -> Photo:
    draw = generator(9)
    L = draw.uniform(0, 100, (height, width)).astype(np.float32)
    return Photo("p", L, draw.uniform(-60, 60, (2, height, width)).astype(np.float32))


def chroma(photo: Photo) -> np.ndarray:
    return np.hypot(*photo.ab)


def hue(photo: Photo) -> np.ndarray:
    return np.degrees(np.arctan2(photo.ab[1], photo.ab[0]))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_a_pure_function_of_photo_and_generator(name: str) -> None:
    photo, change = photo_of(), CHANGES[name]
    before = photo.L.copy(), photo.ab.copy()
    one, two = change(photo, generator(4)), change(photo, generator(4))
    np.testing.assert_array_equal(one.L, two.L)
    np.testing.assert_array_equal(one.ab, two.ab)
    assert one.L.dtype == one.ab.dtype == np.float32
    assert any(not np.array_equal(change(photo, generator(s)).ab, one.ab) for s in range(9)) or any(
        not np.array_equal(change(photo, generator(s)).L, one.L) for s in range(9)
    )
    np.testing.assert_array_equal(photo.L, before[0])
    np.testing.assert_array_equal(photo.ab, before[1])


def test_every_place_occurs_and_the_centre_is_the_middle() -> None:
    places = {random_place(21, 30, 19, generator(seed)) for seed in range(400)}
    assert places == {Place(top, left, 19) for top in range(3) for left in range(12)}
    assert centre_place(20, 30, 10) == Place(5, 10, 10)


def test_beyond_its_border_a_photo_is_reflected() -> None:
    planes = generator().integers(0, 256, (3, 9, 12), dtype=np.uint8)
    inside = Place(2, 3, 6)
    np.testing.assert_array_equal(cut(planes, inside), planes[:, 2:8, 3:9])
    padded = np.pad(planes, ((0, 0), (5, 5), (5, 5)), mode="reflect")
    outside = Place(-4, 2, 15)
    np.testing.assert_array_equal(cut(planes, outside), padded[:, 1 : 1 + 15, 7 : 7 + 15])
    one_row = planes[:, :1]
    np.testing.assert_array_equal(cut(one_row, Place(-2, 0, 5)), one_row[:, [0] * 5, :5])


def test_rotation_turns_the_photo_and_needs_its_margin() -> None:
    data = DataConfig(crop_px=32, rotate_degrees=30)
    side = 32 + 2 * margin_px(data)
    middle = (side - 1) / 2
    rows, columns = np.mgrid[:side, :side].astype(np.float32) - np.float32(middle)
    ramp = Photo("p", rows, np.stack([columns, rows]))
    for seed in range(20):
        degrees = generator(seed).uniform(-30, 30)
        turned = random_rotation(ramp, 30.0, margin_px(data), generator(seed))
        assert turned.L.shape == (32, 32)
        assert turned.ab.shape == (2, 32, 32)
        y, x = np.mgrid[:32, :32] - 15.5
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        # A ramp stays a ramp: nothing of the margin's far side was reflected into view.
        np.testing.assert_allclose(turned.L, x * sin + y * cos, atol=0.05)
        np.testing.assert_allclose(turned.ab[0], x * cos - y * sin, atol=0.05)
        np.testing.assert_array_equal(turned.ab[1], turned.L)


def test_hue_turns_every_colour_by_one_angle_and_keeps_lightness_and_chroma() -> None:
    photo = photo_of()
    angles = []
    for seed in range(50):
        turned = random_hue(photo, 40.0, generator(seed))
        np.testing.assert_array_equal(turned.L, photo.L)
        np.testing.assert_allclose(chroma(turned), chroma(photo), rtol=1e-5)
        by = (hue(turned) - hue(photo) + 180) % 360 - 180
        np.testing.assert_allclose(by, by[0, 0], atol=0.1)
        angles.append(by[0, 0])
    assert -40 <= min(angles) < -30
    assert 30 < max(angles) <= 40


def test_chroma_is_scaled_both_ways_and_hue_and_lightness_are_kept() -> None:
    photo = photo_of()
    factors = []
    for seed in range(50):
        scaled = random_chroma(photo, 1.5, generator(seed))
        np.testing.assert_array_equal(scaled.L, photo.L)
        np.testing.assert_allclose(hue(scaled), hue(photo), atol=0.01)
        factors.append(float(np.median(chroma(scaled) / chroma(photo))))
    assert 1 / 1.5 <= min(factors) < 0.75
    assert 1.35 < max(factors) <= 1.5


@pytest.mark.parametrize("change", [CHANGES["hue"], lambda p, g: random_chroma(p, 4.0, g)])
def test_no_colour_leaves_the_range_of_the_bins(change: Change) -> None:
    extreme = Photo("p", np.zeros((1, 2), np.float32), np.array([[[98, 80]], [[94, -107]]], "f4"))
    for seed in range(50):
        changed = change(extreme, generator(seed))
        assert np.abs(changed.ab).max() <= AB_LIMIT * (1 + 1e-6)


def test_gamma_moves_lightness_monotonically_and_keeps_black_white_and_colour() -> None:
    L = np.linspace(0, 100, 11, dtype=np.float32)[None]
    photo = Photo("p", L, np.ones((2, 1, 11), np.float32))
    middles = []
    for seed in range(50):
        changed = random_lightness_gamma(photo, 2.0, generator(seed))
        np.testing.assert_array_equal(changed.ab, photo.ab)
        assert changed.L[0, 0] == 0
        assert changed.L[0, -1] == pytest.approx(100)
        assert (np.diff(changed.L) > 0).all()
        middles.append(float(changed.L[0, 5]))
    assert 25 <= min(middles) < 29  # 100 * 0.5^2
    assert 67 < max(middles) <= 71  # 100 * 0.5^0.5


def test_by_default_nothing_but_the_flip_happens() -> None:
    photo = photo_of(16, 16)
    assert margin_px(DataConfig()) == 0
    assert augmented(photo, DataConfig(flip=False), generator()) is photo
    kinds = set()
    for seed in range(20):
        changed = augmented(photo, DataConfig(), generator(seed))
        mirrored = np.array_equal(changed.L, photo.L[:, ::-1])
        assert mirrored or np.array_equal(changed.L, photo.L)
        kinds.add(mirrored)
    assert kinds == {True, False}


def test_everything_together_gives_a_crop_without_its_margin() -> None:
    side = EVERYTHING.crop_px + 2 * margin_px(EVERYTHING)
    changed = augmented(photo_of(side, side), EVERYTHING, generator())
    assert changed.L.shape == (16, 16)
    assert changed.ab.shape == (2, 16, 16)
    assert np.isfinite(changed.L).all()
    assert np.isfinite(changed.ab).all()
