"""No photo is trained on of which validation or test holds a copy."""

import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab_data_set import noise, row_of, write_data_set
from PIL import Image

from pipelines.__main__ import main
from tintlab.config import BinsConfig, DataConfig, EvaluationConfig, ModelConfig
from tintlab.data.batches import eval_batches, train_batches
from tintlab.data.photos import write_packaged_photos
from tintlab.data.prepare import PrepareConfig, prepare
from tintlab.data.shard_format import copy_search
from tintlab.data.shard_format.ab_statistics import AbStatistics, merged, statistics_of
from tintlab.data.shard_format.copies import Copy
from tintlab.data.shard_format.copy_search import MAX_BITS, MAX_RMS, NOTHING, Looks, nearest_copies
from tintlab.data.shard_format.encoding import codes_from_planes
from tintlab.data.shard_format.split import coarse_grey, perceptual_hash, small_grey, split_of
from tintlab.data.shards import Shards, open_shards, verify
from tintlab.errors import ConfigError, EnvironmentFault, IntegrityError
from tintlab.evaluation.validate import validate
from tintlab.model.colorizer import Colorizer

CONFIG = PrepareConfig(short_side_px=None, shard_rows=64)


def brute_force(photos: Looks, originals: Looks) -> list[int]:
    """The definition, without any shortcut."""
    nearest = []
    for digits, grey in zip(photos.hashes.tolist(), photos.coarse_grey, strict=True):
        found = []
        for j, (other, other_grey) in enumerate(
            zip(originals.hashes.tolist(), originals.coarse_grey, strict=True)
        ):
            rms = float(np.sqrt(np.mean((grey.astype(float) - other_grey) ** 2)))
            if bin(digits ^ other).count("1") <= MAX_BITS and rms <= MAX_RMS:
                found.append((rms, j))
        nearest.append(min(found)[1] if found else NOTHING)
    return nearest


def looks(draw: np.random.Generator, count: int, most_bits: int, most_levels: int) -> Looks:
    """Photos around one another: some bits and grey levels from one of three."""
    centres = np.random.default_rng(0).integers(0, 2**64, 3, np.uint64, endpoint=False)
    bits = draw.permuted(np.arange(64) < draw.integers(0, most_bits + 1, (count, 1)), axis=1)
    flips = np.packbits(bits, axis=1).reshape(count, 8).view(">u8")[:, 0].astype(np.uint64)
    levels = draw.integers(0, most_levels + 1, (count, 1))
    grey = 100 + levels + draw.integers(-1, 2, (count, 64))
    return Looks(centres[draw.integers(0, 3, count)] ^ flips, grey.astype(np.uint8))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    photos=st.integers(0, 60),
    originals=st.integers(0, 30),
    most_bits=st.integers(0, 12),
    most_levels=st.integers(0, 12),
    pairs=st.sampled_from([1, 7, 200]),
    few_pairs=st.sampled_from([0, 1 << 26]),
)
def test_the_search_finds_what_comparing_all_finds(
    seed: int,
    photos: int,
    originals: int,
    most_bits: int,
    most_levels: int,
    pairs: int,
    few_pairs: int,
) -> None:
    draw = np.random.default_rng(seed)
    some = looks(draw, photos, most_bits, most_levels)
    others = looks(draw, originals, most_bits, most_levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy_search, "PAIRS", pairs)
        patch.setattr(copy_search, "FEW_PAIRS", few_pairs)
        patch.setattr(copy_search, "BAND_BITS", (16, 16, 16, 16))  # quick to make
        patch.setattr(copy_search, "BAND_MAX_BITS", 2)
        assert nearest_copies(some, others).tolist() == brute_force(some, others)


@pytest.mark.parametrize("few_pairs", [0, 1 << 26])
def test_the_search_finds_each_distance_wherever_its_bits_are(
    few_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_search, "FEW_PAIRS", few_pairs)
    draw = np.random.default_rng(0)
    count = 600
    hashes = draw.integers(0, 2**64, count, np.uint64, endpoint=False)
    grey = draw.integers(0, 256, (count, 64), np.uint8)
    apart = np.arange(count) % 16
    bits = draw.permuted(np.arange(64) < apart[:, None], axis=1)
    flips = np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
    order = draw.permutation(count)
    found = nearest_copies(Looks(hashes ^ flips, grey), Looks(hashes[order], grey[order]))
    expected = np.where(apart <= MAX_BITS, np.argsort(order), NOTHING)
    np.testing.assert_array_equal(found, expected)


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def copies_of(path: Path) -> dict[str, bytes]:
    """Encoded again and made smaller, as photos come back from elsewhere."""
    with Image.open(path) as opened:
        whole = opened.convert("RGB")
    half = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.BILINEAR)
    two_thirds = whole.resize((whole.width * 2 // 3,) * 2, Image.Resampling.BOX)
    return {
        "q60.jpg": encoded(whole, "JPEG", quality=60),
        "half.jpg": encoded(half, "JPEG", quality=60),
        "half.png": encoded(half, "PNG"),
        "two_thirds.webp": encoded(two_thirds, "WEBP", quality=60),
        "two_thirds.jpg": encoded(two_thirds, "JPEG", quality=90),
    }


def split_of_file(data: bytes | Path) -> str:
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return split_of(perceptual_hash(small_grey(np.asarray(image.convert("RGB")))))


def names(shards: Shards, split: str) -> list[str]:
    """Sources of the photos of a split, in order."""
    return [
        name
        for rows in shards.columns(["split", "source"])
        for name, of in zip(rows["source"].to_pylist(), rows["split"].to_pylist(), strict=True)
        if of == split
    ]


def trained_on(shards: Shards) -> set[str]:
    every = names(shards, "train")
    return {every[index] for index in shards.trainable("train")}


def colors_trained_on(shards: Shards) -> AbStatistics:
    every = (shards.planes("train", index) for index in shards.trainable("train").tolist())
    return merged(statistics_of(codes_from_planes(*planes)) for planes in every)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.stem != "report"}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The packaged tiles by split: small and often flat, so that copies change their bits."""
    by_split: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for path in write_packaged_photos(tmp_path_factory.mktemp("tiles")):
        by_split[split_of_file(path)].append(path)
    return by_split


@pytest.fixture(scope="module")
def strays(tiles: dict[str, list[Path]]) -> dict[str, dict[str, bytes]]:
    """Copies of val and test tiles that fall in train or val, by tile."""
    found: dict[str, dict[str, bytes]] = {}
    for path in (*tiles["val"], *tiles["test"]):
        later = ("train", "val") if path in tiles["test"] else ("train",)
        copies = copies_of(path).items()
        away = {f"{path.stem}.{k}": data for k, data in copies if split_of_file(data) in later}
        if away:
            found[path.stem] = away
    return found


@pytest.fixture(scope="module")
def mixed(
    tiles: dict[str, list[Path]],
    strays: dict[str, dict[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    ray_cluster: None,
) -> tuple[Path, Path]:
    """All tiles with every copy that strays, and the data set of them."""
    folder, out = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("set")
    for path in (*tiles["train"], *tiles["val"], *tiles["test"]):
        shutil.copy(path, folder)
    for away in strays.values():
        for name, data in away.items():
            (folder / name).write_bytes(data)
    prepare([str(folder)], str(out), CONFIG)
    return folder, out


def test_no_copy_of_a_val_or_test_tile_is_trained_on(
    mixed: tuple[Path, Path], strays: dict[str, dict[str, bytes]]
) -> None:
    folder, out = mixed
    shards = open_shards(str(out))
    of = {split: set(names(shards, split)) for split in ("train", "val", "test")}
    away = {f"{folder.name}/{name}" for copies in strays.values() for name in copies}
    assert len(away & of["train"]) >= 10
    assert len(away & of["val"]) >= 1
    assert not trained_on(shards) & away
    val = names(shards, "val")
    assert not {val[index] for index in shards.used("val")} & away
    assert len(shards.used("test")) == len(of["test"])
    # What it costs: two of 248 tiles look like another tile so much.
    lost = {copy.id for copy in shards.copies}
    ids = [name for split in of for name in shards.ids(split)]
    every = [name for split in of for name in names(shards, split)]
    alone = [name for i, name in zip(ids, every, strict=True) if i in lost and name not in away]
    assert len(alone) <= 3
    counts = shards.manifest.copies.counts
    assert counts == {"test": 0, **Counter(copy.split for copy in shards.copies)}
    assert colors_trained_on(shards) == shards.manifest.ab
    assert verify(str(out)) == []


def test_the_table_says_what_each_is_a_copy_of(
    mixed: tuple[Path, Path], strays: dict[str, dict[str, bytes]]
) -> None:
    _, out = mixed
    shards = open_shards(str(out))
    name_of = {
        name: Path(source).name
        for split in ("train", "val", "test")
        for name, source in zip(shards.ids(split), names(shards, split), strict=True)
    }
    found = {name_of[copy.id]: copy for copy in shards.copies}
    for stem, away in strays.items():
        for name in away:
            copy = found[name]
            assert name_of[copy.copy_of].split(".")[0] == stem
            assert copy.copy_of in shards.ids(copy.copy_of_split)
            assert copy.bits <= MAX_BITS
            assert copy.rms <= MAX_RMS
            assert ("train", "val", "test").index(copy.split) < ("train", "val", "test").index(
                copy.copy_of_split
            )


def test_a_stopped_run_finds_the_same_copies(mixed: tuple[Path, Path], tmp_path: Path) -> None:
    folder, out = mixed
    again = tmp_path / "set"
    shutil.copytree(out, again)
    (again / "manifest.json").unlink()
    (table,) = again.glob("copies-*")
    table.write_bytes(table.read_bytes()[:40])
    (again / "copies-0123456789abcdef.parquet").write_bytes(b"of a run that was stopped")
    (again / ".copies-0123456789abcdef.parquet.tmp-01").write_bytes(b"the same")
    report = prepare([str(folder)], str(again), CONFIG)
    assert report.decoded == 0
    assert files(again) == files(out)
    before = {
        path.name: path.stat().st_mtime_ns for path in again.iterdir() if "report" not in path.name
    }
    assert prepare([str(folder)], str(again), CONFIG).fingerprint == report.fingerprint
    assert before == {name: (again / name).stat().st_mtime_ns for name in before}


def test_an_original_that_comes_later_ends_the_training_on_its_copy(
    tiles: dict[str, list[Path]],
    strays: dict[str, dict[str, bytes]],
    tmp_path: Path,
    ray_cluster: None,
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "set"
    folder.mkdir()
    for path in tiles["train"][::10]:
        shutil.copy(path, folder)
    tile = next(
        path
        for path in tiles["test"]
        if any(split_of_file(data) == "train" for data in strays.get(path.stem, {}).values())
    )
    stray = next(name for name, data in strays[tile.stem].items() if split_of_file(data) == "train")
    (folder / stray).write_bytes(strays[tile.stem][stray])
    first = prepare([str(folder)], str(out), CONFIG)
    old, before = open_shards(str(out)), files(out)
    assert f"photos/{stray}" in trained_on(old)
    assert first.copies == {"train": 0, "val": 0, "test": 0}
    assert old.manifest.copies.table is None

    shutil.copy(tile, folder)
    second = prepare([str(folder)], str(out), CONFIG)
    new = open_shards(str(out))
    assert trained_on(old) - trained_on(new) == {f"photos/{stray}"}
    assert (second.copies, second.generation) == ({"train": 1, "val": 0, "test": 0}, 2)
    assert new.ids("train") == old.ids("train")
    assert all(files(out)[name] == data for name, data in before.items() if "shard" in name)
    assert colors_trained_on(new) == new.manifest.ab
    assert new.manifest.fingerprint != old.manifest.fingerprint

    put_later = tiles["train"][1]
    shutil.copy(put_later, folder)
    third = prepare([str(folder)], str(out), CONFIG)
    assert (third.copies, third.generation) == (second.copies, 3)
    newest = open_shards(str(out))
    assert trained_on(newest) == trained_on(new) | {f"photos/{put_later.name}"}
    assert colors_trained_on(newest) == newest.manifest.ab
    assert len(list(out.glob("copies-*"))) == 1

    at_once = tmp_path / "at once"
    whole = prepare([str(folder)], str(at_once), CONFIG)
    assert whole.copies == third.copies
    assert open_shards(str(at_once)).manifest.ab == newest.manifest.ab


def test_copies_are_counted_and_shown(
    mixed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = mixed
    counts = open_shards(str(out)).manifest.copies.counts
    report = json.loads((out / "report.json").read_text())
    assert report["copies"] == counts
    page = (out / "report.html").read_text()
    section = page.split("<h2>Copies in two splits</h2>")[1].split("<h2>")[0]
    assert f"{sum(counts.values())} photos of train or val look like one of val or test" in section
    assert section.count("data:image/jpeg;base64,") == 24
    argv = ["shards", "show", str(out), "--out", str(tmp_path)]
    assert main([*argv, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["splits"]
    assert {split: figures["copies"] for split, figures in shown.items()} == counts
    assert main(argv) == 0
    assert re.search(r"split +photos +near-grey +copies", capsys.readouterr().out)


@pytest.fixture
def with_copies(tmp_path: Path) -> str:
    """Ten train photos, two of them copies of val or test; three of val, one a copy of test."""
    rows = [row_of(noise(20, 24, seed), "train") for seed in range(10)]
    rows += [row_of(noise(20, 24, 10 + seed), "val") for seed in range(3)]
    rows += [row_of(noise(20, 24, 20 + seed), "test") for seed in range(2)]
    copies = [
        Copy(rows[3].id, "train", rows[10].id, "val", 1, 0.5),
        Copy(rows[7].id, "train", rows[13].id, "test", 0, 0.5),
        Copy(rows[11].id, "val", rows[14].id, "test", 2, 1.5),
    ]
    write_data_set(str(tmp_path / "set"), [rows[:6], rows[6:]], copies=copies)
    return str(tmp_path / "set")


@pytest.mark.parametrize("exclude_near_grey", [True, False])
def test_copies_are_in_no_training_batch(with_copies: str, exclude_near_grey: bool) -> None:
    shards = open_shards(with_copies)
    data = DataConfig(crop_px=16, exclude_near_grey=exclude_near_grey)
    kept = [name for i, name in enumerate(shards.ids("train")) if i not in (3, 7)]
    batches = train_batches(shards, data, 4, seed=0)
    assert sorted(name for _ in range(4) for name in next(batches).ids) == sorted(2 * kept)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_val_is_measured_without_its_copies_and_test_is_whole(with_copies: str, ranks: int) -> None:
    shards = open_shards(with_copies)

    def measured(split: str, limit: int | None = None) -> list[str]:
        shares = [
            [
                name
                for batch in eval_batches(shards, split, 16, 2, rank, ranks, limit)
                for name in batch.ids
            ]
            for rank in range(ranks)
        ]
        return sorted(name for share in shares for name in share)

    val = shards.ids("val")
    assert measured("val") == sorted([val[0], val[2]])
    assert measured("val", limit=2) == sorted([val[0], val[2]])
    assert measured("test") == sorted(shards.ids("test"))
    assert measured("train") == sorted(set(shards.ids("train")) - {c.id for c in shards.copies})


def test_nothing_left_but_copies_is_said(tmp_path: Path) -> None:
    rows = [
        row_of(noise(20, 24, seed), split) for seed, split in enumerate(("train", "val", "test"))
    ]
    train, val, test = (row.id for row in rows)
    copies = [Copy(train, "train", test, "test", 0, 0.0), Copy(val, "val", test, "test", 0, 0.0)]
    write_data_set(str(tmp_path), [rows], copies=copies)
    shards = open_shards(str(tmp_path))
    message = r"all 1 train photos of .* are left out: 1 as copies of photos of val or test"
    with pytest.raises(ConfigError, match=message):
        train_batches(shards, DataConfig(crop_px=16), 1, 0)
    model = Colorizer(ModelConfig(depth=1), BinsConfig())
    with pytest.raises(EnvironmentFault, match="the val split holds no photo"):
        validate(model, shards, EvaluationConfig(crop_px=16))


def test_a_lost_or_changed_table_is_found(with_copies: str) -> None:
    (table,) = Path(with_copies).glob("copies-*.parquet")
    data = table.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    table.write_bytes(flipped)
    assert verify(with_copies) == [f"{table.name} is not what was written: its SHA-256 differs"]
    table.write_bytes(data[:30])
    with pytest.raises(IntegrityError, match=f"{table.name} cannot be read"):
        open_shards(with_copies)
    table.unlink()
    with pytest.raises(IntegrityError, match=f"{table.name} cannot be read"):
        open_shards(with_copies)
    assert verify(with_copies) == [f"{table.name} is missing"]


def test_a_manifest_that_hides_its_copies_is_refused(with_copies: str) -> None:
    path = Path(with_copies) / "manifest.json"
    tree = json.loads(path.read_text())
    tree["copies"] = {"table": None, "counts": {"train": 0, "val": 0, "test": 0}}
    path.write_text(json.dumps(tree))
    with pytest.raises(IntegrityError, match="was changed: its fingerprint"):
        open_shards(with_copies)


def test_grey_levels_are_means_of_blocks() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32).repeat(4, axis=0)  # (32, 32)
    rgb = np.repeat(ramp[..., None], 3, axis=2).repeat(2, axis=0).repeat(5, axis=1)
    found = np.frombuffer(coarse_grey(small_grey(rgb)), np.uint8).reshape(8, 8)
    expected = np.arange(256).reshape(8, 8, 4).mean(axis=2)
    assert np.abs(found - expected).max() <= 0.5
