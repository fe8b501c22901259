"""The packaged photographs, and the split that keeps their tiles and copies apart."""

import io
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tintlab.data.photos import packaged_photos, write_packaged_photos
from tintlab.data.shard_format.split import (
    HASH_BITS,
    SPLIT_BITS,
    SPLITS,
    perceptual_hash,
    small_grey,
    split_of,
)
from tintlab.data.shards import open_shards


def test_tiles_cover_each_photo_once_without_overlap(tmp_path: Path) -> None:
    tile_px = 96
    paths = write_packaged_photos(tmp_path, tile_px)
    assert len({path.name for path in paths}) == len(paths) == len(list(tmp_path.iterdir()))
    for name, rgb in packaged_photos().items():
        rows, columns = rgb.shape[0] // tile_px, rgb.shape[1] // tile_px
        again = np.zeros((rows * tile_px, columns * tile_px, 3), np.uint8)
        for row in range(rows):
            for column in range(columns):
                with Image.open(tmp_path / f"{name}_r{row}_c{column}.png") as tile:
                    top, left = row * tile_px, column * tile_px
                    again[top : top + tile_px, left : left + tile_px] = np.asarray(tile)
        np.testing.assert_array_equal(again, rgb[: rows * tile_px, : columns * tile_px])


def test_writing_again_touches_nothing_and_mends_what_is_broken(tmp_path: Path) -> None:
    paths = write_packaged_photos(tmp_path, 256)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    paths[0].write_bytes(b"broken")
    assert write_packaged_photos(tmp_path, 256) == paths
    assert paths[0].read_bytes() == before[paths[0]][1]
    assert all(path.stat().st_mtime_ns == before[path][0] for path in paths[1:])
    assert not list(tmp_path.glob(".*"))


def test_no_photo_is_so_large_that_it_dominates() -> None:
    photos = packaged_photos()
    assert "motorcycle_right" not in photos  # the stereo twin of motorcycle_left
    assert max(min(rgb.shape[:2]) for rgb in photos.values()) == 512


def test_no_tile_of_one_split_is_in_another(shards_uri: str) -> None:
    shards = open_shards(shards_uri)
    ids: dict[str, set[str]] = {}
    pixels: dict[str, set[bytes]] = {}
    names: list[str] = []
    for split in SPLITS:
        ids[split] = set(shards.ids(split))
        photos = [shards.photo(split, index) for index in range(shards.count(split))]
        pixels[split] = {photo.L.tobytes() + photo.ab.tobytes() for photo in photos}
    for entry in shards.manifest.shards:
        table = pq.read_table(f"{shards_uri}/{entry.name}", columns=["source"])
        names += table["source"].to_pylist()
    assert len(names) == len(set(names)) == sum(len(part) for part in ids.values())
    for one, other in combinations(SPLITS, 2):
        assert not ids[one] & ids[other]
        assert not pixels[one] & pixels[other]
    assert all(ids[split] for split in SPLITS)


def test_splits_have_their_shares() -> None:
    keys = range(2**SPLIT_BITS)
    found = Counter(split_of(key << (HASH_BITS - SPLIT_BITS)) for key in keys)
    shares = {split: found[split] / len(keys) for split in SPLITS}
    assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.02)


def test_the_split_of_a_hash_never_changes() -> None:
    # Published data sets depend on it: another value here is another format version.
    values = (0, 1 << 52, 0x123456789ABCDEF0, 0xFFFFFFFFFFFFFFFF)
    assert [split_of(value) for value in values] == ["train", "test", "train", "train"]


def test_a_flat_photo_does_not_hash_its_noise() -> None:
    generator = np.random.default_rng(0)
    noisy = generator.integers(126, 131, (200, 300, 3), dtype=np.uint8)
    flat = np.full((50, 80, 3), 128, np.uint8)
    assert perceptual_hash(small_grey(noisy)) == perceptual_hash(small_grey(flat)) == 0


@pytest.mark.parametrize("quality", [60, 75, 90])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_copies_of_a_photo_fall_in_its_split(quality: int, scale: float) -> None:
    for name, rgb in packaged_photos().items():
        small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        file = io.BytesIO()
        Image.fromarray(small).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            copy = np.asarray(image)
        splits = {split_of(perceptual_hash(small_grey(picture))) for picture in (copy, rgb)}
        assert len(splits) == 1, name
