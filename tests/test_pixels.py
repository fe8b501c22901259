"""Decompressed pixels: kept where they may be, the same as in the shard, and never in the way."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from lab_data_set import noise, row_of, write_data_set

from tintlab.data.batches import Batch, train_batches
from tintlab.data.prepare_config import Compression
from tintlab.data.shard_format import pixels
from tintlab.data.shard_format.mapped_pixels import mapped_file, mapped_pixels
from tintlab.data.shard_format.pixels import GroupPixels, LocalDisk, Memory
from tintlab.data.shards import Shards, open_shards
from tintlab.errors import IntegrityError
from tintlab.settings import DataConfig

PHOTOS = 6
ParquetWriter = pq.ParquetWriter


@pytest.fixture(autouse=True)
def whole_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is free on the disk of this machine may be used."""
    monkeypatch.setattr(pixels, "FREE_BYTES", 0)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Six train photos in three compressed shards."""
    return written_as(tmp_path / "shards", "zstd")


def written_as(folder: Path, compression: Compression) -> str:
    rows = [row_of(noise(20, 20 + seed, seed), "train") for seed in range(PHOTOS)]
    shards = [rows[:2], rows[2:4], rows[4:]]
    write_data_set(str(folder), shards, compression=compression)
    return str(folder)


def an_epoch(shards: Shards) -> list[Batch]:
    data = DataConfig(crop_px=16, loader_threads=0)
    return list(islice(train_batches(shards, data, 1, seed=3), PHOTOS))


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def group_of(count_px: int, value: int = 0) -> GroupPixels:
    return GroupPixels(
        np.full(2 * count_px, value, np.uint8),
        np.full(4 * count_px, value, np.uint8),
        np.zeros(1, np.int64),
    )


def columns_of(count_px: int) -> list[np.ndarray]:
    return [np.zeros(2 * count_px, np.uint8), np.zeros(4 * count_px, np.uint8)]


def test_pixels_from_the_disk_are_those_of_the_shards(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "pixels"
    expected = an_epoch(open_shards(uri))
    assert not folder.exists()
    for shards in (open_shards(uri, folder), open_shards(uri, folder)):
        for one, other in zip(expected, an_epoch(shards), strict=True):
            assert one.ids == other.ids
            assert one.L.equal(other.L)
            assert one.ab.equal(other.ab)
    assert len(files_in(folder)) == 3
    assert sum(path.stat().st_size for path in files_in(folder)) == 6 * 20 * (6 * 20 + 15)


def test_uncompressed_shards_are_mapped_and_not_kept(uri: str, tmp_path: Path) -> None:
    plain = written_as(tmp_path / "plain", "none")
    for path in Path(plain).glob("shard-*"):
        footer, areas = pq.read_metadata(path), pq.read_table(path, columns=["height", "width"])
        sizes = zip(*areas.to_pydict().values(), strict=True)
        starts = np.cumsum([0, *(height * width for height, width in sizes)])
        content = mapped_file(path, path.stat().st_size)
        assert content is not None
        assert mapped_pixels(content, footer, 0, starts) is not None
        assert mapped_file(path, path.stat().st_size + 1) is None
    assert not (tmp_path / "pixels").exists()
    an_epoch(open_shards(plain, tmp_path / "pixels"))
    assert not (tmp_path / "pixels").exists()
    for one, other in zip(an_epoch(open_shards(uri)), an_epoch(open_shards(plain)), strict=True):
        assert one.ids == other.ids
        assert one.L.equal(other.L)
        assert one.ab.equal(other.ab)


def test_shards_in_several_pages_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written_as(tmp_path / "whole", "none")
    monkeypatch.setattr("tintlab.data.shard_format.shard_writer.PAGE_BYTES", 1)
    monkeypatch.setattr(
        "tintlab.data.shard_format.shard_writer.pq.ParquetWriter", one_value_at_a_time
    )
    cut = written_as(tmp_path / "cut", "none")
    for one, other in zip(an_epoch(open_shards(whole)), an_epoch(open_shards(cut)), strict=True):
        assert one.L.equal(other.L)


def one_value_at_a_time(*args: Any, **options: Any) -> pq.ParquetWriter:
    return ParquetWriter(*args, **options, write_batch_size=1)


def test_an_uncompressed_shard_that_was_cut_or_lost_is_refused(tmp_path: Path) -> None:
    uri = written_as(tmp_path / "plain", "none")
    shards = open_shards(uri)
    path = sorted(Path(uri).glob("shard-*"))[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match=f"{path.name} cannot be read"):
        shards.photo("train", 0)
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{path.name} is missing"):
        shards.photo("train", 0)


def test_later_epochs_need_no_shard(uri: str, tmp_path: Path) -> None:
    an_epoch(open_shards(uri, tmp_path / "pixels"))
    shards = open_shards(uri, tmp_path / "pixels")
    for path in Path(uri).glob("shard-*"):
        path.unlink()
    assert len(an_epoch(shards)) == PHOTOS


def test_a_file_of_the_wrong_size_is_made_again(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "pixels"
    expected = an_epoch(open_shards(uri, folder))
    for path in files_in(folder):
        path.write_bytes(path.read_bytes()[:-1])
    assert all(
        one.L.equal(other.L)
        for one, other in zip(expected, an_epoch(open_shards(uri, folder)), strict=True)
    )


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path, frozenset({"a"}), limit_bytes=100)
    assert disk.put("a", 0, columns_of(10))
    assert not disk.put("a", 1, columns_of(10))
    assert [path.name for path in files_in(tmp_path)] == ["a-0"]
    assert disk.get("a", 1, np.zeros(1, np.int64), 10) is None


def test_a_nearly_full_disk_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "FREE_BYTES", 1 << 60)
    assert not LocalDisk(tmp_path, frozenset({"a"})).put("a", 0, columns_of(10))
    assert files_in(tmp_path) == []


def test_other_data_sets_make_way_and_earlier_boots_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LocalDisk(tmp_path, frozenset({"a"}), limit_bytes=100).put("a", 0, columns_of(10))
    kept = LocalDisk(tmp_path, frozenset({"b"}), limit_bytes=1000)
    kept.put("b", 0, columns_of(10))
    assert [path.name for path in files_in(tmp_path)] == ["a-0", "b-0"]
    LocalDisk(tmp_path, frozenset({"b"}), limit_bytes=180).put("b", 1, columns_of(10))
    assert [path.name for path in files_in(tmp_path)] == ["b-0", "b-1"]
    (tmp_path / "of somebody else").mkdir()
    boot = tmp_path / "boot"
    boot.write_text("another\n")
    monkeypatch.setattr(pixels, "_BOOT_ID", boot)
    LocalDisk(tmp_path, frozenset({"b"})).put("b", 2, columns_of(10))
    assert [path.name for path in files_in(tmp_path)] == ["boot", "b-2"]
    assert (tmp_path / "of somebody else").is_dir()


def test_a_disk_that_refuses_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    disk = LocalDisk(tmp_path / "file" / "pixels", frozenset({"a"}))
    with pytest.warns(UserWarning, match=r"pixels are not kept in .*, so later epochs are slower"):
        assert not disk.put("a", 0, columns_of(10))
    assert not disk.put("a", 1, columns_of(10))  # says it once


def test_memory_keeps_what_was_used_last() -> None:
    memory = Memory(limit_bytes=130)
    loaded: list[int] = []

    def get(key: int) -> GroupPixels:
        def load() -> GroupPixels:
            loaded.append(key)
            return group_of(10, key)

        return memory.get((0, key), load)

    for key in (1, 2, 1, 3, 1, 2):
        assert get(key).L[0] == key
    assert loaded == [1, 2, 3, 2]


def test_pixels_of_a_mapped_file_are_never_let_go() -> None:
    memory = Memory(limit_bytes=130)
    loaded: list[int] = []

    def load() -> GroupPixels:
        loaded.append(1)
        return replace(group_of(100), of_file=True)

    for key in (0, 1, 0, 1):
        memory.get((0, key), load)
    assert len(loaded) == 2


def test_threads_that_want_the_same_load_it_once() -> None:
    memory, together, loaded = Memory(), Barrier(4), []

    def load() -> GroupPixels:
        loaded.append(1)
        return group_of(10)

    def work() -> None:
        together.wait()
        memory.get((0, 0), load)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1


def test_a_shard_whose_pixels_do_not_fit_its_sizes_is_named(tmp_path: Path) -> None:
    row = row_of(noise(20, 20, 0), "train")
    write_data_set(str(tmp_path), [[replace(row, L=row.L[:-1])]])
    with pytest.raises(IntegrityError, match=r"shard-0+\.parquet cannot be read: L does not have"):
        open_shards(str(tmp_path)).photo("train", 0)
