"""The shard format: what is written is read, and nothing else is taken for it."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from lab_data_set import noise, row_of, write_data_set

from tintlab.color.lab import lab_to_srgb, srgb_to_lab
from tintlab.data.shard_format.ab_statistics import merged, statistics_of
from tintlab.data.shard_format.encoding import (
    A_STEP,
    AB_OFFSET,
    L_STEP,
    codes_of,
    from_bytes,
    to_bytes,
)
from tintlab.data.shard_format.rows import Row
from tintlab.data.shard_format.shard_writer import SCHEMA
from tintlab.data.shards import open_shards, verify
from tintlab.errors import ConfigError, EnvironmentFault, IntegrityError

SPLITS = ("train", "val", "test")


def through_a_shard(rgb: np.ndarray) -> np.ndarray:
    codes = codes_of(srgb_to_lab(rgb))
    L, ab = from_bytes(to_bytes(codes[0]), to_bytes(codes[1:]), *rgb.shape[:2])
    return lab_to_srgb(np.concatenate([L[None], ab]).transpose(1, 2, 0))


def off_by(rgb: np.ndarray) -> int:
    return int(np.abs(through_a_shard(rgb).astype(int) - rgb).max())


def test_colours_survive_within_one_of_255_on_a_dense_grid() -> None:
    levels = np.union1d(np.arange(0, 256, 5), np.arange(16)).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    assert off_by(grid.reshape(levels.size, -1, 3)) == 1


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("level", [0, 1, 2, 3, 7, 9, 255])
def test_colours_survive_where_a_channel_is_dark(channel: int, level: int) -> None:
    # Here the sRGB curve is steepest, and an error in ab costs most: these planes set the steps.
    every = np.arange(256, dtype=np.uint8)
    axes = [every, every, every]
    axes[channel] = np.array([level], np.uint8)
    plane = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(256, 256, 3)
    assert off_by(plane) <= 1


def test_greys_keep_their_neutrality_and_every_code_fits() -> None:
    greys = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    assert (codes_of(srgb_to_lab(greys))[1:] == AB_OFFSET).all()
    corners = np.array(
        [[[r, g, b] for r in (0, 255) for g in (0, 255)] for b in (0, 255)], np.uint8
    )
    codes = codes_of(srgb_to_lab(corners))
    assert codes[0].max() == round(100 / L_STEP)
    assert 0 < codes[1:].min() < codes[1:].max() < 2 * AB_OFFSET


def test_statistics_are_those_of_the_pixels() -> None:
    pictures = [noise(40, 60, seed) for seed in (1, 2)]
    ab = np.concatenate([srgb_to_lab(rgb)[..., 1:].reshape(-1, 2) for rgb in pictures])
    found = merged(statistics_of(codes_of(srgb_to_lab(rgb))) for rgb in pictures)
    assert found.pixels == 2 * 40 * 60
    np.testing.assert_allclose(found.mean, ab.mean(axis=0), atol=A_STEP)
    np.testing.assert_allclose(found.std, ab.std(axis=0), rtol=1e-3)
    edges = np.arange(-110, 111, 10)
    expected, _, _ = np.histogram2d(ab[:, 0], ab[:, 1], bins=[edges, edges])
    histogram = np.array(found.histogram)
    assert histogram.sum() == found.pixels
    assert np.abs(histogram - expected).sum() <= 0.01 * found.pixels  # rounding at cell borders


@pytest.fixture
def rows() -> list[Row]:
    sizes = [(20, 30), (33, 21), (16, 16), (40, 40), (25, 64), (19, 17)]
    return [
        row_of(noise(height, width, seed), SPLITS[seed % 3])
        for seed, (height, width) in enumerate(sizes)
    ]


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_photos_are_read_as_they_were_written(where: str, tmp_path: Path, rows: list[Row]) -> None:
    uri = str(tmp_path / "set") if where == "folder" else "memory://photos_are_read/set"
    write_data_set(uri, [rows[:4], rows[4:]])
    shards = open_shards(uri)
    for split in SPLITS:
        expected = [row for row in rows if row.split == split]
        assert shards.count(split) == len(expected)
        assert shards.ids(split) == [row.id for row in expected]
        for index, row in enumerate(expected):
            photo = shards.photo(split, index)
            L, ab = from_bytes(row.L, row.ab, row.height, row.width)
            assert photo.id == row.id
            np.testing.assert_array_equal(photo.L, L)
            np.testing.assert_array_equal(photo.ab, ab)
    assert verify(uri) == []
    assert shards.source_hashes() == {row.sha256 for row in rows}
    with pytest.raises(IndexError, match="holds 2 photos, got index 2"):
        shards.photo("val", 2)
    with pytest.raises(ConfigError, match="no split 'validation'; use one of train, val, test"):
        shards.count("validation")


def test_an_open_data_set_can_be_sent_to_another_process(tmp_path: Path, rows: list[Row]) -> None:
    write_data_set(str(tmp_path / "set"), [rows])
    shards = open_shards(str(tmp_path / "set"))
    shards.photo("train", 0)
    again = pickle.loads(pickle.dumps(shards))
    np.testing.assert_array_equal(again.photo("train", 1).L, shards.photo("train", 1).L)


def test_plain_pyarrow_reproduces_the_picture(tmp_path: Path) -> None:
    rgb = noise(30, 50, seed=3)
    write_data_set(str(tmp_path), [[row_of(rgb)]])
    (path,) = tmp_path.glob("shard-*.parquet")

    table = pq.read_table(path)
    row = table.to_pylist()[0]
    shape = (row["height"], row["width"])
    high, low = np.frombuffer(row["L"], np.uint8).reshape(2, *shape).astype(np.float32)
    L = (256 * high + low) * 0.0475
    high, low = np.frombuffer(row["ab"], np.uint8).reshape(2, 2, *shape).astype(np.float32)
    a, b = (256 * high + low - 4096) * np.array([0.0275, 0.045])[:, None, None]

    assert table.schema.names == SCHEMA.names
    assert all(not field.metadata for field in table.schema)
    again = lab_to_srgb(np.stack([L, a, b], axis=-1))
    assert np.abs(again.astype(int) - rgb).max() <= 1


def test_row_groups_hold_one_split_and_a_few_megabytes(tmp_path: Path) -> None:
    rows = [row_of(noise(300, 300, seed), SPLITS[seed % 2]) for seed in range(20)]
    write_data_set(str(tmp_path), [rows])
    (path,) = tmp_path.glob("shard-*.parquet")
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 4  # 8 photos of 540 kB each and the rest, per split
    for group in range(4):
        splits = file.read_row_group(group, ["split"])["split"].to_pylist()
        assert len(set(splits)) == 1
        assert len(splits) <= 8


def test_a_folder_without_manifest_is_no_data_set(tmp_path: Path) -> None:
    expected = f"{tmp_path} is not a data set: no manifest.json; run tintlab prepare PHOTOS --out"
    with pytest.raises(EnvironmentFault, match=expected):
        open_shards(str(tmp_path))
    with pytest.raises(EnvironmentFault, match="is not a data set"):
        verify(str(tmp_path / "nowhere"))


def change_manifest(folder: Path, key: str, value: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def test_other_versions_and_changed_manifests_are_refused(tmp_path: Path, rows: list[Row]) -> None:
    write_data_set(str(tmp_path), [rows])
    good = (tmp_path / "manifest.json").read_text()
    change_manifest(tmp_path, "version", 7)
    message = "is of format tintlab-lab-shards version 7, and this tintlab reads .* version 2"
    with pytest.raises(IntegrityError, match=message):
        open_shards(str(tmp_path))
    (tmp_path / "manifest.json").write_text(good)
    change_manifest(tmp_path, "parameters", {"short_side_px": 8})
    with pytest.raises(IntegrityError, match="was changed: its fingerprint"):
        open_shards(str(tmp_path))
    for text in (good[:-40], "[]", '{"version": 2}', ""):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(IntegrityError, match="broken"):
            open_shards(str(tmp_path))


def test_verify_finds_a_single_flipped_bit(tmp_path: Path, rows: list[Row]) -> None:
    write_data_set(str(tmp_path), [rows[:3], rows[3:]])
    second = sorted(tmp_path.glob("shard-*.parquet"))[1]
    data = bytearray(second.read_bytes())
    data[len(data) // 3] ^= 0x10
    second.write_bytes(data)
    assert verify(str(tmp_path)) == [f"{second.name} is not what was written: its SHA-256 differs"]


def test_a_missing_or_cut_shard_is_found_on_opening(tmp_path: Path, rows: list[Row]) -> None:
    write_data_set(str(tmp_path), [rows])
    (shard,) = tmp_path.glob("shard-*.parquet")
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(IntegrityError, match=f"{shard.name} has {len(data) - 100} bytes"):
        open_shards(str(tmp_path))
    assert verify(str(tmp_path)) == [
        f"{shard.name} has {len(data) - 100} bytes and should have {len(data)}"
    ]
    shard.unlink()
    with pytest.raises(IntegrityError, match=f"{shard.name} is missing"):
        open_shards(str(tmp_path))
    assert verify(str(tmp_path)) == [f"{shard.name} is missing"]


def test_pixels_damaged_after_opening_are_an_integrity_error(
    tmp_path: Path, rows: list[Row]
) -> None:
    write_data_set(str(tmp_path), [rows])
    shards = open_shards(str(tmp_path))
    (shard,) = tmp_path.glob("shard-*.parquet")
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    with pytest.raises(IntegrityError, match=f"{shard.name} cannot be read"):
        shards.photo("train", 0)
