"""What a preparation says about itself, and what it does when the world gets in its way."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from containers import hugging_face_parquet, tar_of
from lab_data_set import noise, png

from pipelines.__main__ import main
from tintlab.data.decoding.images import MAX_PIXELS
from tintlab.data.preparation.out_folder import claimed
from tintlab.data.preparation.pace import Pace
from tintlab.data.prepare import PrepareConfig, prepare
from tintlab.data.shards import open_shards, verify
from tintlab.data.storage import resolve
from tintlab.errors import ConfigError, EnvironmentFault

pytestmark = pytest.mark.usefixtures("ray_cluster")

CONFIG = PrepareConfig(short_side_px=32, shard_rows=8)
OPTIONS = ["--short-side-px", "32", "--shard-rows", "8"]


def photo(seed: int) -> bytes:
    return png(noise(40, 44, seed))


def grey_photo(seed: int) -> bytes:
    """Not exactly grey: its chroma is about 1."""
    grey = noise(40, 44, seed).mean(axis=2).astype(np.uint8)
    return png(np.stack([grey, grey, np.clip(grey.astype(int) + 2, 0, 255).astype(np.uint8)], 2))


def put(folder: Path, **photos: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in photos.items():
        (folder / f"{name}.png").write_bytes(data)
    return folder


def test_every_source_at_once_through_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(tmp_path / "photos", a=photo(0), copy=photo(0), broken=b"text", grey=grey_photo(1))
    (folder / ".hidden.png").write_bytes(photo(2))
    members = {f"{seed}.png": photo(seed) for seed in range(10, 15)}
    (folder / "whole.tar").write_bytes(tar_of({**members, "0.json": b"{}"}))
    others = tar_of({f"{seed}.png": photo(seed) for seed in range(20, 25)})
    (folder / "cut.tar").write_bytes(others[: len(others) // 2])
    rows = [(f"{seed}.png", photo(seed)) for seed in [*range(30, 50), 14]]
    rows.append(("31 again.png", photo(31)))
    hugging_face_parquet(folder / "train.parquet", [*rows, ("gone.png", None)], row_group_size=15)
    listed = put(tmp_path / "elsewhere", b=photo(3)) / "list.txt"
    listed.write_text("b.png\nnowhere.png\n")
    out = str(tmp_path / "set")
    sources = [str(folder), f"@{listed}"]

    assert main(["prepare", *sources, "--out", out, *OPTIONS, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not Path(out).exists()
    assert main(["prepare", *sources, "--out", out, *OPTIONS, "--json"]) == 4
    report = json.loads(capsys.readouterr().out)

    assert planned["inputs"] == report["inputs"]
    assert report["inputs"] == report["stored"] + report["duplicates"] + report["quarantined"]
    outcomes = pq.read_table(f"{out}/report.parquet").to_pylist()
    assert len(outcomes) == report["inputs"]
    became = {row["path"]: row["outcome"] for row in outcomes}
    whole_in_cut = sum(name.startswith("photos/cut.tar/") for name in became)
    assert 1 <= whole_in_cut < 5
    # a, copy, broken, grey; 5 of a tar; some of the other and its lost rest; 23 rows; 2 listed
    assert report["inputs"] == 4 + 5 + whole_in_cut + 1 + 23 + 2
    assert report["duplicates"] == 3
    assert report["reasons"] == {"empty": 1, "not_an_image": 1, "truncated": 1, "vanished": 1}
    assert report["left_out"] == 2
    assert sum(report["near_grey"].values()) == 1
    assert became["photos/a.png"] == "stored"
    assert became["photos/copy.png"] == "duplicate"
    assert became["photos/cut.tar"] == "quarantined"
    assert became["photos/whole.tar/14.png"] == "duplicate"
    assert became["nowhere.png"] == "quarantined"

    shards = open_shards(out)
    stored = set()
    for entry in shards.manifest.shards:
        stored |= set(pq.read_table(f"{out}/{entry.name}")["source"].to_pylist())
    assert stored == {path for path, outcome in became.items() if outcome == "stored"}
    table = shards.manifest.quarantine.table
    assert table is not None
    quarantine = pq.read_table(f"{out}/{table.name}")
    assert quarantine.schema.names[:3] == ["path", "reason", "message"]
    refused = {path for path, outcome in became.items() if outcome == "quarantined"}
    assert set(quarantine["path"].to_pylist()) == refused

    document = json.loads(Path(f"{out}/report.json").read_text())
    assert {key: document[key] for key in report if key != "out"} == {
        key: value for key, value in report.items() if key != "out"
    }

    # The shards of a row group are made by one task, and the same ones by anybody.
    again = tmp_path / "again"
    assert main(["prepare", *sources, "--out", str(again), *OPTIONS, "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["fingerprint"] == report["fingerprint"]


def test_the_page_stands_alone_and_believes_no_file_name(tmp_path: Path) -> None:
    folder = put(tmp_path / "photos", **{f"p{seed}": photo(seed) for seed in range(9)})
    put(folder, **{"<img src=x onerror=alert(1)>": b"text", "grey": grey_photo(1)})
    report = prepare([str(tmp_path)], str(tmp_path.parent / f"{tmp_path.name}-set"), CONFIG)
    page = (tmp_path.parent / f"{tmp_path.name}-set" / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 10 + 1 + 1  # photos, near-grey, histogram
    assert "http" not in page
    assert report.fingerprint in page


def test_near_grey_photos_are_stored_and_not_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for seed in range(12):
        put(folder, **{f"c{seed}": photo(seed), f"g{seed}": grey_photo(seed)})
    report = prepare([str(folder)], str(tmp_path / "set"), CONFIG)
    shards = open_shards(str(tmp_path / "set"))
    assert report.stored == 24
    assert sum(report.near_grey.values()) == 12
    assert report.near_grey == shards.manifest.near_grey
    for split in ("train", "val", "test"):
        trainable, near_grey = shards.trainable(split), shards.near_grey(split)
        assert sorted([*trainable, *near_grey]) == list(range(shards.count(split)))
        assert len(near_grey) == report.near_grey[split]
        for index in near_grey:
            assert np.abs(shards.photo(split, int(index)).ab).mean() < 2
    pixels = shards.sizes("train")[shards.trainable("train")].prod(axis=1).sum()
    assert shards.manifest.ab.pixels == pixels
    whole = prepare([str(folder)], str(tmp_path / "all"), PrepareConfig(near_grey_chroma=0))
    assert sum(whole.near_grey.values()) == 0


def test_the_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    folder = put(tmp_path / "photos", **{f"p{seed}": photo(seed) for seed in range(12)})
    prepare([str(folder)], str(tmp_path / "set"), CONFIG)
    shards = open_shards(str(tmp_path / "set"))
    photos = [shards.photo("train", int(index)) for index in shards.trainable("train")]
    L = np.concatenate([p.L.ravel() for p in photos]).astype(np.float64)
    ab = np.concatenate([p.ab.reshape(2, -1) for p in photos], axis=1).astype(np.float64)
    found = shards.manifest.ab
    assert (found.L_mean, found.L_std) == pytest.approx((L.mean(), L.std()), rel=1e-5)
    assert found.mean == pytest.approx(tuple(ab.mean(axis=1)), rel=1e-4)
    assert found.std == pytest.approx(tuple(ab.std(axis=1)), rel=1e-5)
    sizes = shards.sizes("train")
    assert shards.manifest.largest["train"].width == sizes[:, 1].max()
    assert shards.manifest.smallest["train"].height == sizes[:, 0].min()


def test_what_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    folder, out = put(tmp_path / "photos", a=photo(0), bad=b"text"), str(tmp_path / "set")
    (folder / "late.png").symlink_to(tmp_path / "late")
    first = prepare([str(folder)], out, CONFIG)
    assert first.reasons == {"not_an_image": 1, "vanished": 1}
    same = prepare([str(folder)], out, CONFIG)
    assert (same.generation, same.decoded, same.reasons) == (1, 0, first.reasons)
    (tmp_path / "late").write_bytes(photo(1))
    second = prepare([str(folder)], out, CONFIG)
    assert (second.stored, second.reasons, second.generation) == (2, {"not_an_image": 1}, 2)
    assert open_shards(out).manifest.quarantine.reasons == {"not_an_image": 1}
    (folder / "bad.png").unlink()
    third = prepare([str(folder)], out, CONFIG)  # it is still true that it was refused
    assert (third.quarantined, third.generation) == (0, 2)
    assert open_shards(out).manifest.quarantine.reasons == {"not_an_image": 1}


def test_two_preparations_of_one_folder_exclude_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = put(tmp_path / "photos", a=photo(0)), tmp_path / "set"
    fs, root = resolve(str(out))
    with claimed(fs, root):
        assert main(["prepare", str(folder), "--out", str(out), "--json", *OPTIONS]) == 5
        error = json.loads(capsys.readouterr().out)["error"]["message"]
        assert error == (
            f"another tintlab prepare (process {os.getpid()}) is writing to {out}; wait for it to "
            "end, or give another --out"
        )
    assert not out.exists()
    assert main(["prepare", str(folder), "--out", str(out), *OPTIONS]) == 0
    assert not (out / ".lock").exists()


def test_photos_that_come_later_are_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = put(tmp_path / "photos", a=photo(0), b=photo(1)), tmp_path / "set"
    argv = ["prepare", str(folder), "--out", str(out), "--json", *OPTIONS]
    assert main(argv) == 0
    first = json.loads(capsys.readouterr().out)
    old = {path.name: path.read_bytes() for path in out.glob("shard-*")}
    put(folder, c=photo(2), again=photo(0))
    assert main(argv) == 0
    second = json.loads(capsys.readouterr().out)
    assert (first["generation"], second["generation"]) == (1, 2)
    assert (second["stored"], second["duplicates"], second["decoded"]) == (3, 1, 1)
    now = {path.name: path.read_bytes() for path in out.glob("shard-*")}
    assert old.items() < now.items()
    assert main(argv) == 0
    third = json.loads(capsys.readouterr().out)
    assert (third["generation"], third["decoded"]) == (2, 0)
    assert third["fingerprint"] == second["fingerprint"] != first["fingerprint"]


def test_memory_of_one_process_is_no_place_for_workers(tmp_path: Path) -> None:
    folder = put(tmp_path / "photos", a=photo(0))
    with pytest.raises(ConfigError, match=r"memory:///set is the memory of this one process"):
        prepare([str(folder)], "memory://set", CONFIG)
    fs, _ = resolve("memory://somewhere")
    fs.pipe_file("/somewhere/a.png", photo(0))
    with pytest.raises(ConfigError, match=r"somewhere/a.png is in the memory of this one process"):
        prepare(["memory://somewhere"], str(tmp_path / "set"), CONFIG)


def test_a_shard_that_does_not_fit_leaves_nothing_of_itself(tmp_path: Path) -> None:
    """In a process none of whose files may grow beyond 8 kB."""
    data = photo(0)
    put(tmp_path, a=data)
    photos = [[[str(tmp_path / "a.png")], "a.png", sha256(data).hexdigest()]]
    task = {
        "out": str(tmp_path / "set"),
        "config": PrepareConfig(short_side_px=None).model_dump(mode="json"),
        "shards": [{"key": "0" * 64, "photos": photos}],
    }
    code = f"""
        import json, resource
        from tintlab.data.preparation.tasks import shards_task
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, most))
        print(shards_task(json.loads({json.dumps(task)!r}))["fault"])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in made.stdout
    assert list((tmp_path / "set").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path, small_disk: Path) -> None:
    out = small_disk / "set"
    folder = put(tmp_path / "photos", **{f"p{seed}": photo(seed) for seed in range(8)})
    prepare([str(folder)], str(out), CONFIG)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    put(folder, **{f"n{seed}": photo(100 + seed) for seed in range(100)})
    message = rf"cannot write to {out}: .*No space left on device; .* the same command goes on"
    with pytest.raises(EnvironmentFault, match=message):
        prepare([str(folder)], str(out), CONFIG)
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("shard-") for name in after.keys() - before.keys())
    assert verify(str(out)) == []


def test_other_versions_and_other_things_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = put(tmp_path / "photos", a=photo(0)), tmp_path / "set"
    argv = ["prepare", str(folder), "--out", str(out), "--json", *OPTIONS]
    assert main(argv) == 0
    manifest = out / "manifest.json"
    good = json.loads(manifest.read_text())
    capsys.readouterr()

    def refused(code: int, *extra: str) -> str:
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        assert main([*argv, *extra]) == code
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        document = json.loads(capsys.readouterr().out)
        return str(document["error"]["message"])

    difference = refused(5, "--near-grey-chroma", "1", "--min-side-px", "20")
    assert "min_side_px is 16 there and 20 here, near_grey_chroma is 2.3 there" in difference
    manifest.write_text(json.dumps({**good, "version": 1}))
    message = refused(7)
    assert "is of format tintlab-lab-shards version 1, and this tintlab reads" in message
    assert "delete the folder and run tintlab prepare again" in message
    manifest.write_text(json.dumps({**good, "format": "tintlab-checkpoint"}))
    assert "is of format tintlab-checkpoint version 2" in refused(7)
    manifest.unlink()
    (out / "thesis.txt").write_text("do not touch")
    assert "holds something else (thesis.txt)" in refused(5)


def test_progress_says_how_far_how_fast_and_how_long() -> None:
    now_s = [100.0]
    pace = Pace("prepare:", "photos", 2000, clock=lambda: now_s[0])
    now_s[0] = 102.0
    quarter = f"prepare: {'█' * 5}{'░' * 15} 500 of 2,000 photos"
    assert pace.line(500, 300) == f"{quarter}, 150/s, 0:10 left"
    assert pace.line(500, 0) == quarter  # all of them were done before: no rate is known
    assert pace.line(2000, 9) == f"prepare: {'█' * 20} 2,000 of 2,000 photos"


def test_the_cap_on_pixels_is_one_number() -> None:
    assert PrepareConfig().max_pixels == MAX_PIXELS


def test_photos_are_taken_from_a_web_server(tmp_path: Path) -> None:
    folder = put(tmp_path / "photos", a=photo(0), b=photo(1))
    serve = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        serve, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split("port ")[1].split()[0]
        address = f"http://127.0.0.1:{port}"
        (tmp_path / "list.txt").write_text(f"{address}/a.png\n{address}/b.png\n{address}/no.png\n")
        report = prepare([f"@{tmp_path}/list.txt"], str(tmp_path / "set"), CONFIG)
        server.terminate()
    assert (report.inputs, report.stored, report.reasons) == (3, 2, {"vanished": 1})
