"""Batches: every photo once, in an order and with crops that depend on the seed and place alone."""

import gc
import pickle
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from lab_data_set import noise, row_of, write_data_set

from tintlab.data.batches import (
    AHEAD,
    WINDOW_GROUPS,
    Batch,
    epoch_order,
    eval_batches,
    in_order,
    train_batches,
)
from tintlab.data.shards import Shards, open_shards
from tintlab.errors import ConfigError, IntegrityError
from tintlab.settings import DataConfig

TRAIN, VAL = 23, 7
DATA = DataConfig(crop_px=16)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """23 training and 7 validation photos of several sizes, none below 24 px; no test photo."""
    uri = str(tmp_path_factory.mktemp("shards"))
    rows = [
        row_of(noise(24 + seed % 5, 30 - seed % 4, seed), "train" if seed < TRAIN else "val")
        for seed in range(TRAIN + VAL)
    ]
    write_data_set(uri, [rows[:11], rows[11:]])
    return open_shards(uri)


def taken(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(batches, count))


def same(one: Batch, other: Batch) -> bool:
    return one.ids == other.ids and torch.equal(one.L, other.L) and torch.equal(one.ab, other.ab)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_epoch_is_a_permutation_over_all_ranks(
    shards: Shards, world_size: int, batch_size: int
) -> None:
    epochs = 3
    each = -(-epochs * TRAIN // (world_size * batch_size))
    ranks = [
        taken(train_batches(shards, DATA, batch_size, 5, rank, world_size), each)
        for rank in range(world_size)
    ]
    stream = [name for at in range(each) for rank in ranks for name in rank[at].ids]
    orders = [stream[epoch * TRAIN : (epoch + 1) * TRAIN] for epoch in range(epochs)]
    for order in orders:
        assert sorted(order) == sorted(shards.ids("train"))
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != shards.ids("train")


def test_two_ranks_see_what_one_rank_sees_with_twice_the_batch(shards: Shards) -> None:
    one = taken(train_batches(shards, DATA, 6, 7), 12)
    two = [taken(train_batches(shards, DATA, 3, 7, rank, 2), 12) for rank in (0, 1)]
    for whole, first, second in zip(one, *two, strict=True):
        assert same(
            whole,
            Batch(
                torch.cat([first.L, second.L]),
                torch.cat([first.ab, second.ab]),
                first.ids + second.ids,
            ),
        )


@pytest.mark.parametrize("start", [1, 5, 17])
def test_going_on_equals_never_having_stopped(shards: Shards, start: int) -> None:
    whole = taken(train_batches(shards, DATA, 4, 3), start + 4)
    resumed = taken(train_batches(shards, DATA, 4, 3, start=start), 4)
    assert all(same(one, other) for one, other in zip(whole[start:], resumed, strict=True))


def test_another_seed_gives_other_orders_and_crops(shards: Shards) -> None:
    (one,), (other,) = (taken(train_batches(shards, DATA, TRAIN, seed), 1) for seed in (1, 2))
    assert one.ids != other.ids
    by_id = dict(zip(other.ids, other.L, strict=True))
    moved = [not torch.equal(L, by_id[name]) for name, L in zip(one.ids, one.L, strict=True)]
    assert sum(moved) > TRAIN / 2


def test_crops_are_pixels_of_their_photo(shards: Shards) -> None:
    for flip in (False, True):
        (batch,) = taken(train_batches(shards, DataConfig(crop_px=16, flip=flip), TRAIN, 1), 1)
        assert batch.L.shape == (TRAIN, 1, 16, 16)
        assert batch.ab.shape == (TRAIN, 2, 16, 16)
        flipped = 0
        for name, L, ab in zip(batch.ids, batch.L.numpy(), batch.ab.numpy(), strict=True):
            photo = shards.photo("train", shards.ids("train").index(name))
            whole = np.concatenate([photo.L[None], photo.ab])
            crop = np.concatenate([L, ab])
            places = [is_in(crop, whole), is_in(crop[..., ::-1], whole)]
            assert places[0] or (flip and places[1])
            flipped += not places[0]
        assert flip == (flipped > 0)
        assert flipped < TRAIN


def is_in(crop: np.ndarray, whole: np.ndarray) -> bool:
    height, width = crop.shape[1:]
    return any(
        np.array_equal(whole[:, top : top + height, left : left + width], crop)
        for top in range(whole.shape[1] - height + 1)
        for left in range(whole.shape[2] - width + 1)
    )


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("limit", [None, 5, 100])
def test_evaluation_sees_every_photo_once(
    shards: Shards, world_size: int, limit: int | None
) -> None:
    seen = [
        name
        for rank in range(world_size)
        for batch in eval_batches(shards, "val", 16, 3, rank, world_size, limit)
        for name in batch.ids
    ]
    assert sorted(seen) == sorted(shards.ids("val")[:limit])


def test_evaluation_crops_the_centre_and_an_empty_split_is_empty(shards: Shards) -> None:
    batch = next(eval_batches(shards, "val", 20, 2))
    photo = shards.photo("val", 0)
    top, left = (photo.L.shape[0] - 20) // 2, (photo.L.shape[1] - 20) // 2
    expected = photo.L[top : top + 20, left : left + 20]
    np.testing.assert_array_equal(batch.L[0, 0].numpy(), expected)
    assert list(eval_batches(shards, "test", 16, 3)) == []


def test_a_crop_that_does_not_fit_is_refused_before_the_first_batch(shards: Shards) -> None:
    message = r"crop_px=64 is larger than photo \w{16} of split train, which is 30x24; .* is 24"
    with pytest.raises(ConfigError, match=message):
        train_batches(shards, DataConfig(), 4, 0)
    with pytest.raises(ConfigError, match=r"crop_px=25 is larger than photo .* of split val"):
        eval_batches(shards, "val", 25, 4)
    with pytest.raises(ConfigError, match=r"rank must be in 0\.\.1 for 2 ranks, got 2"):
        train_batches(shards, DATA, 4, 0, rank=2, world_size=2)


def test_training_on_nothing_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    uri = str(tmp_path_factory.mktemp("only_val"))
    write_data_set(uri, [[row_of(noise(20, 20, 0), "val")]])
    with pytest.raises(ConfigError, match=r"the train split of .* is empty; prepare more photos"):
        train_batches(open_shards(uri), DATA, 4, 0)


def test_an_order_is_a_permutation_whose_windows_fit_the_cache() -> None:
    group_rows = 8
    count = 100 * group_rows - 3
    starts = range(0, count, group_rows)
    order = epoch_order(starts, count, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(count))
    window = WINDOW_GROUPS * group_rows
    for at in range(0, count, window):
        assert len(set((order[at : at + window] // group_rows).tolist())) <= WINDOW_GROUPS + 1
    assert not np.array_equal(order, epoch_order(starts, count, seed=1, epoch=3))
    np.testing.assert_array_equal(order, epoch_order(starts, count, seed=1, epoch=2))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("start", [0, 6])
def test_threads_change_nothing_but_speed(shards: Shards, threads: int, start: int) -> None:
    everything = {
        "rotate_degrees": 10,
        "hue_degrees": 20,
        "chroma_scale": 1.5,
        "lightness_gamma": 1.2,
    }
    alone = DataConfig(crop_px=16, loader_threads=0, **everything)
    ahead = DataConfig(crop_px=16, loader_threads=threads, **everything)
    expected = taken(train_batches(shards, alone, 4, 3), 30)[start:]
    found = taken(train_batches(shards, ahead, 4, 3, start=start), 30 - start)
    assert all(same(one, other) for one, other in zip(expected, found, strict=True))
    assert all(batch.L.isfinite().all() for batch in found)


def test_batches_are_made_ahead_and_no_thread_outlives_its_iterator() -> None:
    made = []
    batches = in_order(made.append, start=5, threads=2)
    next(batches)
    deadline = time.monotonic() + 10
    while len(made) < 2 * AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(made) == list(range(5, 5 + 2 * AHEAD))
    assert threads_at_work()
    batches.close()
    assert not threads_at_work()
    collected = in_order(made.append, start=0, threads=1)
    next(collected)
    del collected
    gc.collect()
    assert not threads_at_work()


def threads_at_work() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("threads", [0, 2])
def test_what_goes_wrong_in_a_thread_is_raised_where_its_batch_would_be(threads: int) -> None:
    def make(number: int) -> int:
        if number == 3:
            raise IntegrityError("shard 3 is gone")
        return number

    batches = in_order(make, start=0, threads=threads)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(IntegrityError, match="shard 3 is gone"):
        next(batches)
    assert not threads_at_work()


def test_near_grey_photos_are_trained_on_only_if_asked_for(tmp_path: Path) -> None:
    colourful = [row_of(noise(20, 24, seed), "train") for seed in range(9)]
    grey = [
        row_of(np.repeat(noise(20, 24, seed)[..., :1], 3, axis=2), split)
        for seed, split in ((20, "train"), (21, "train"), (22, "val"))
    ]
    rows = [*colourful[:4], grey[0], *colourful[4:], *grey[1:]]
    write_data_set(str(tmp_path), [rows[:5], rows[5:]], near_grey_chroma=2.3)
    shards = open_shards(str(tmp_path))
    for keep in (False, True):
        data = DataConfig(crop_px=16, exclude_near_grey=not keep)
        expected = sorted(row.id for row in (*colourful, *(grey[:2] if keep else [])))
        for world_size in (1, 2, 3, 8):
            each = -(-len(expected) // world_size)
            ranks = [
                taken(train_batches(shards, data, 1, 0, rank, world_size), each)
                for rank in range(world_size)
            ]
            stream = [name for at in range(each) for rank in ranks for name in rank[at].ids]
            assert sorted(stream[: len(expected)]) == expected
    assert [name for batch in eval_batches(shards, "val", 16, 2) for name in batch.ids] == [
        grey[2].id
    ]
    write_data_set(str(tmp_path / "grey"), [grey], near_grey_chroma=2.3)
    with pytest.raises(ConfigError, match=r"all 2 train photos of .* 0 as copies .* near-grey"):
        train_batches(open_shards(str(tmp_path / "grey")), DATA, 1, 0)


def test_batches_come_from_remote_storage(shards: Shards) -> None:
    local = shards.uri
    remote = f"memory://batches{local}"
    fsspec.filesystem("memory").put(f"{local}/", f"/batches{local}/", recursive=True)
    expected = taken(train_batches(shards, DATA, 4, 1), 8)
    found = taken(train_batches(open_shards(remote), DATA, 4, 1), 8)
    assert all(same(one, other) for one, other in zip(expected, found, strict=True))


def test_a_pickled_data_set_gives_the_same_batches(shards: Shards) -> None:
    expected = taken(train_batches(shards, DATA, 4, 1), 4)
    found = taken(train_batches(pickle.loads(pickle.dumps(shards)), DATA, 4, 1), 4)
    assert all(same(one, other) for one, other in zip(expected, found, strict=True))


def test_a_shard_that_changes_while_it_is_read_ends_the_epoch(tmp_path: Path) -> None:
    write_data_set(str(tmp_path), [[row_of(noise(24, 24, seed), "train") for seed in range(8)]])
    shards = open_shards(str(tmp_path))
    [file] = tmp_path.glob("shard-*.parquet")
    content = file.read_bytes()
    batches = train_batches(shards, DATA.model_copy(update={"loader_threads": 0}), 4, seed=0)
    taken(batches, 4)
    file.write_bytes(content)  # the same bytes, at another time: nothing has changed
    taken(batches, 2)
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(IntegrityError, match=f"{file.name} is not what was written"):
        taken(batches, 4)
    batches = train_batches(shards, DATA.model_copy(update={"loader_threads": 0}), 4, seed=0)
    file.unlink()
    with pytest.raises(IntegrityError, match=f"{file.name} is missing"):
        taken(batches, 1)
