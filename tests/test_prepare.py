"""Preparation end to end: nothing lost, nothing done twice, the same bytes every time."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from lab_data_set import noise, png
from PIL import Image

from tintlab.data.prepare import PrepareConfig, PrepareReport, plan, prepare
from tintlab.data.shard_format.rows import make_row
from tintlab.data.shards import open_shards, verify
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, IntegrityError

pytestmark = pytest.mark.usefixtures("ray_cluster")

CONFIG = PrepareConfig(short_side_px=32, shard_rows=8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """20 photos of several sizes, some in a folder inside."""
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    for seed in range(20):
        where = folder / "inside" if seed % 3 == 0 else folder
        picture = noise(40 + seed, 60 - seed, seed)
        (where / f"photo{seed:02d}.png").write_bytes(png(picture))
    return folder


def files(out: Path) -> dict[str, bytes]:
    """The data set; the report beside it tells how long that run took."""
    paths = (path for path in out.iterdir() if path.stem != "report")
    return {path.name: path.read_bytes() for path in paths}


def check_sums(report: PrepareReport) -> None:
    assert report.inputs == report.stored + report.duplicates + report.quarantined
    assert sum(report.reasons.values()) == report.quarantined


def test_every_input_is_accounted_for(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    picture = noise(50, 50, seed=100)
    (photos / "a.png").write_bytes(png(picture))
    (photos / "inside" / "same as a.png").write_bytes(png(picture))
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("no picture")
    (photos / "text again.png").write_text("no picture")
    (photos / "cut.png").write_bytes(png(picture)[:-2000])
    (photos / "tiny.png").write_bytes(png(noise(15, 400, seed=101)))
    (photos / "name \udcff\n.png").write_text("not even its name is in order")
    (photos / "nowhere.png").symlink_to(tmp_path / "nothing")
    (photos / ".hidden.png").write_text("left out")
    lines: list[str] = []
    report = prepare([str(photos)], str(out), CONFIG, lines.append)

    check_sums(report)
    assert (report.inputs, report.stored, report.duplicates) == (29, 21, 1)
    assert report.reasons == {
        "empty": 1,
        "not_an_image": 3,
        "too_small": 1,
        "truncated": 1,
        "vanished": 1,
    }
    assert lines[-2] == f"prepare: {20 * '█'} 26 of 26 photos"
    assert lines[-1] == "prepare: looking for copies of photos of val and test"
    shards = open_shards(str(out))
    assert report.splits == shards.manifest.counts
    assert sum(report.splits.values()) == 21
    assert shards.manifest.fingerprint == report.fingerprint
    assert verify(str(out)) == []
    table = shards.manifest.quarantine.table
    assert table is not None
    quarantine = {row["path"]: row for row in pq.read_table(out / table.name).to_pylist()}
    assert quarantine["photos/tiny.png"]["reason"] == "too_small"
    assert quarantine["photos/tiny.png"]["message"] == "400x15 is smaller than 16 px on a side"
    assert quarantine["photos/text again.png"]["reason"] == "not_an_image"
    assert len(quarantine) == 7


def test_pixels_are_those_of_the_photos(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare([str(photos)], str(out), PrepareConfig(short_side_px=None))
    (entry,) = open_shards(str(out)).manifest.shards
    rows = pq.read_table(out / entry.name).to_pylist()
    by_name = {row["source"]: row for row in rows}
    assert (by_name["photos/photo05.png"]["height"], by_name["photos/photo05.png"]["width"]) == (
        45,
        55,
    )
    assert by_name.keys() == {
        f"photos/{path.relative_to(photos)}" for path in photos.rglob("*.png")
    }
    smaller = tmp_path / "smaller"
    prepare([str(photos)], str(smaller), CONFIG)
    shards = open_shards(str(smaller))
    sizes = np.concatenate([shards.sizes(split) for split in ("train", "val", "test")])
    assert (sizes.min(axis=1) == 32).all()
    # Not the size, but what a photo looks like decides where it belongs.
    whole = open_shards(str(out))
    for split in ("train", "val", "test"):
        assert set(shards.ids(split)) == set(whole.ids(split))


def test_two_workers_write_the_same_bytes_as_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "broken.png").write_text("no picture")
    two = prepare([str(photos)], str(tmp_path / "two"), CONFIG)
    monkeypatch.setattr("tintlab.data.prepare.CORES_PER_TASK", 2)  # all that the tests' Ray has
    elsewhere = tmp_path / "elsewhere" / "photos"
    shutil.copytree(photos, elsewhere)
    one = prepare([str(elsewhere)], str(tmp_path / "one"), CONFIG)
    assert one.fingerprint == two.fingerprint
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(open_shards(str(tmp_path / "one")).manifest.shards) == 3


def test_a_photo_gives_the_same_row_wherever_it_lies_in_memory() -> None:
    """Vector code of some libraries rounds differently at other addresses."""
    for seed in range(6):
        buffer = io.BytesIO()
        Image.fromarray(noise(90 + seed, 130 - seed, seed)).save(buffer, "JPEG")
        taken, rows = [], []
        for i in range(20):
            taken.append(np.empty(16 * i + 8 + 3 * seed, np.uint8))  # moves what comes next
            rows.append(make_row(buffer.getvalue(), "x", 64, 16, 10**6))
        assert all(row == rows[0] for row in rows), seed


def test_running_again_does_nothing_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    (photos / "broken.png").write_text("no picture")
    (photos / "copy.png").write_bytes((photos / "photo01.png").read_bytes())
    first = prepare([str(photos)], str(out), CONFIG)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    second = prepare([str(photos)], str(out), CONFIG)
    assert first.decoded == 21
    assert second.decoded == 0
    for field in ("inputs", "stored", "duplicates", "quarantined", "reasons", "fingerprint"):
        assert getattr(first, field) == getattr(second, field), field
    assert {name: (out / name).stat().st_mtime_ns for name in files(out)} == before


def test_a_stopped_run_goes_on_with_finished_shards(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    whole = prepare([str(photos)], str(out), CONFIG)
    expected = files(out)
    first, second, third = sorted(out.glob("shard-*.parquet"))
    kept = first.stat().st_mtime_ns
    (out / "manifest.json").unlink()
    second.unlink()
    third.write_bytes(third.read_bytes()[:-50])  # as if the disk had lost its end
    (out / f".{second.name}.tmp-0123456789abcdef").write_bytes(b"half a shard")
    with pytest.raises(EnvironmentFault, match="is not a data set"):
        open_shards(str(out))
    rows = {"first": pq.read_metadata(first).num_rows}
    again = prepare([str(photos)], str(out), CONFIG)
    assert again.decoded == 20 - rows["first"]
    assert first.stat().st_mtime_ns == kept
    assert again.fingerprint == whole.fingerprint
    assert files(out) == expected


def test_added_photos_come_in_new_shards(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare([str(photos)], str(out), CONFIG)
    old = open_shards(str(out))
    before = files(out)
    for seed in range(200, 205):
        (photos / f"new{seed}.png").write_bytes(png(noise(40, 40, seed)))
    (photos / "new broken.png").write_text("no picture")
    report = prepare([str(photos)], str(out), CONFIG)
    check_sums(report)
    assert (report.inputs, report.stored, report.decoded) == (26, 25, 6)
    new = open_shards(str(out))
    assert new.manifest.generation == 2
    assert new.manifest.fingerprint != old.manifest.fingerprint
    assert new.manifest.shards[: len(old.manifest.shards)] == old.manifest.shards
    for split in ("train", "val", "test"):
        assert new.ids(split)[: old.count(split)] == old.ids(split)
    after = files(out)
    assert all(after[name] == data for name, data in before.items() if name.startswith("shard"))
    assert verify(str(out)) == []
    manifest = new.manifest
    assert manifest.ab.pixels == sum(
        int(np.prod(new.sizes("train")[index])) for index in range(new.count("train"))
    )


def test_other_parameters_are_refused_with_the_difference(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare([str(photos)], str(out), CONFIG)
    before = files(out)
    other = PrepareConfig(short_side_px=48, shard_rows=8)
    message = "other parameters: short_side_px is 32 there and 48 here; use the same ones"
    with pytest.raises(ConflictError, match=message):
        prepare([str(photos)], str(out), other)
    with pytest.raises(ConflictError, match=message):
        plan([str(photos)], str(out), other)
    assert files(out) == before


def test_a_damaged_data_set_is_not_taken_for_finished(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare([str(photos)], str(out), CONFIG)
    shard = sorted(out.glob("shard-*.parquet"))[0]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match=f"is damaged: {shard.name} is not what was written"):
        prepare([str(photos)], str(out), CONFIG)


def test_a_folder_with_only_broken_files_leaves_no_data_set(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "set"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_text(f"text {name}")
    (folder / "c.jpg").touch()
    message = r"none of the 3 files in .* can be stored \(1 empty, 2 not_an_image\)"
    with pytest.raises(EnvironmentFault, match=message):
        prepare([str(folder)], str(out), CONFIG)
    assert not out.exists()


def test_bad_places_are_refused_and_left_alone(photos: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    with pytest.raises(EnvironmentFault, match=r"there is no photo or folder .*/missing"):
        prepare([str(tmp_path / "missing")], out, CONFIG)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(EnvironmentFault, match=r"no files in .*nothing; give a folder"):
        prepare([str(tmp_path / "nothing")], out, CONFIG)
    with pytest.raises(EnvironmentFault, match="cannot use nonsense://x"):
        prepare(["nonsense://x"], out, CONFIG)
    with pytest.raises(ConfigError, match="lies inside the source"):
        prepare([str(photos)], str(photos / "set"), CONFIG)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("do not touch")
    with pytest.raises(ConflictError, match=r"holds something else \(thesis.txt\)"):
        prepare([str(photos)], str(tmp_path / "taken"), CONFIG)
    with pytest.raises(ConflictError, match=r"thesis.txt is a file; give a folder"):
        prepare([str(photos)], str(tmp_path / "taken" / "thesis.txt"), CONFIG)
    with pytest.raises(
        EnvironmentFault, match=r"cannot write to .*thesis.txt/set: .*Not a directory"
    ):
        prepare([str(photos)], str(tmp_path / "taken" / "thesis.txt" / "set"), CONFIG)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.txt"]
    assert not Path(out).exists()


def test_sources_can_be_files_globs_and_uris(photos: Path, tmp_path: Path) -> None:
    sources = [str(photos / "photo0*.png"), f"file://{photos}/photo01.png", str(photos / "inside")]
    report = prepare(sources, f"file://{tmp_path}/set", CONFIG)
    inside = len(list((photos / "inside").iterdir()))
    assert report.inputs == report.stored == inside + len(list(photos.glob("photo0*.png")))
    assert plan(sources, str(tmp_path / "set"), CONFIG) == report.inputs


def test_the_manifest_says_how_to_read_the_shards(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    prepare([str(photos)], str(out), CONFIG)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["format"] == "tintlab-lab-shards"
    assert manifest["version"] == 2
    assert manifest["parameters"]["short_side_px"] == 32
    assert manifest["parameters"]["L_step"] == 0.0475
    assert set(manifest["smallest"]) <= {"train", "val", "test"}
    assert sum(entry["rows"] for entry in manifest["shards"]) == 20
