"""`tintlab colorize` killed, out of room, and given everything that photo collections hold."""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from figures import Figure
from hostile_corpus import write_corpus
from lab_data_set import noise
from PIL import Image

from tintlab.color.lab import srgb_to_lab
from tintlab.config import ExperimentConfig
from tintlab.data.decoding.images import Decoded, decode
from tintlab.model.artifact import save_model
from tintlab.model.colorizer import Colorizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PHOTOS, KILLS = 2000, 5
CONFIG = ExperimentConfig().replaced({"model.depth": 1, "data.crop_px": 8})
"""A grid of 2 x 2: what is tested is what happens between photos, not within them."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    save_model(Colorizer(CONFIG.model, CONFIG.bins), CONFIG, folder)
    return folder


def command(model: Path, *argv: str | Path) -> list[str]:
    given = [*map(os.fspath, argv), "--model", str(model)]
    return [sys.executable, "-m", "pipelines", "colorize", *given]


def start(model: Path, *argv: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(model, *argv, "--json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def pictures(out: Path) -> dict[str, str]:
    """Every file that has its name, by its content."""
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in out.rglob("*.png")
        if not file.name.startswith(".")
    }


@pytest.mark.timeout(1500)
def test_five_kills_change_nothing(model: Path, tmp_path: Path, figure: Figure) -> None:
    photos = tmp_path / "photos"
    for part in range(4):
        (photos / f"{part}").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(PHOTOS):
        height, width = draw.integers(12, 28, 2)
        grey = cv2.cvtColor(noise(int(height), int(width), number), cv2.COLOR_RGB2GRAY)
        pair = number // 2  # two files of each stem, whose pictures must not collide
        name = f"{pair % 4}/{pair}{'.jpg' if number % 2 else '.png'}"
        cv2.imwrite(str(photos / name), grey)
    given = sum(file.is_file() for file in photos.rglob("*"))
    assert given == PHOTOS
    (photos / "broken.jpg").write_bytes(b"no photo")

    whole = tmp_path / "whole"
    text, _ = start(model, photos, "--out", whole).communicate(timeout=600)
    expected = json.loads(text)
    assert (expected["inputs"], expected["colored"]) == (given + 1, given)
    wanted = pictures(whole)
    assert len(wanted) == given + 1  # and the contact sheet

    chance, killed = random.Random(0), tmp_path / "killed"
    kills, at_kill = 0, []
    while kills < KILLS:
        process = start(model, photos, "--out", killed)
        # After so many more pictures, so that every kill finds it at work, whatever its pace.
        before = sum(1 for _ in killed.rglob("*.png"))
        goal = before + chance.randint(1, given // (KILLS + 2))
        while process.poll() is None and sum(1 for _ in killed.rglob("*.png")) < goal:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        found = pictures(killed)
        at_kill.append(len(found))
        assert found.items() <= wanted.items()  # none is half-written, and none is different
    text, _ = start(model, photos, "--out", killed).communicate(timeout=600)
    report = json.loads(text)
    done = pictures(killed)
    missing, different = wanted.keys() - done.keys(), dict(done.items() - wanted.items())
    left = [file for file in killed.rglob(".*") if file.is_file()]
    figure(
        "Colorize",
        f"a folder of {given:,} photos killed {KILLS} times (SIGKILL), after {at_kill} pictures",
        f"{len(missing)} missing, {len(different)} different, {len(left)} half-written",
        "0, 0, 0",
    )
    assert not missing
    assert not different
    assert not left
    assert report["colored"] == given
    assert report["done_before"] >= at_kill[-1] > 0


def corpus(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The hostile corpus; and all of its files, each named, so that each is tried."""
    expected = write_corpus(folder)
    return expected, [os.path.join(folder, name) for name in expected]


def test_the_hostile_corpus_is_coloured_or_quarantined(
    model: Path, tmp_path: Path, figure: Figure
) -> None:
    expected, named = corpus(tmp_path / "corpus")
    out = tmp_path / "out"
    text, _ = start(model, *named, "--out", out).communicate(timeout=600)
    report = json.loads(text)
    # A link to a photo of the collection is that photo, and what is too small to be trained on can
    # be coloured.
    inputs = len(expected) - sum(name == "link.jpg" for name in expected)
    reasons = {name: kind for name, kind in expected.items() if name != "link.jpg"}
    good = {name for name, kind in reasons.items() if kind in ("stored", "duplicate", "too_small")}
    found = {
        os.fsencode(bad["source"]).rsplit(b"/", 1)[-1]: bad["reason"]
        for bad in report["quarantined"]
    }
    wrong = {
        name: (kind, found.get(os.fsencode(name)))
        for name, kind in reasons.items()
        if name not in good and found.get(os.fsencode(name)) != kind
    }
    colored, quarantined = report["colored"], len(report["quarantined"])
    figure(
        "Colorize",
        f"{inputs} hostile files of every kind",
        f"{colored} coloured + {quarantined} quarantined of {report['inputs']} inputs, "
        f"{len(wrong)} for another reason than `prepare` gives",
        "all of them, 0",
    )
    assert report["inputs"] == inputs == colored + quarantined
    assert not wrong
    assert colored == len(good)
    assert len(set(report["outputs"])) == len(report["outputs"]) == colored
    worst = 0.0
    checked = 0
    for source, picture in zip(report["sources"], report["outputs"], strict=True):
        if "\\x" in source or not Path(source).is_file():
            continue  # a name that is no UTF-8 is escaped in the report
        before = decode(Path(source).read_bytes(), keep_alpha=True)
        assert isinstance(before, Decoded)
        with Image.open(picture) as image:
            after = np.ascontiguousarray(np.asarray(image)[..., :3])
        assert after.shape == before.rgb.shape
        difference = srgb_to_lab(after)[..., 0] - srgb_to_lab(before.rgb)[..., 0]
        worst = max(worst, float(np.abs(difference).max()))
        checked += 1
    figure(
        "Colorize",
        f"{checked} of these: size, orientation and lightness against the photo",
        f"all sizes equal, largest difference of L {worst:.2f}",
        "at most 1",
    )
    assert checked >= colored - 2
    assert worst <= 1.0


def test_equal_names_never_overwrite_each_other(
    model: Path, tmp_path: Path, figure: Figure
) -> None:
    names = ["a/x.jpg", "b/x.jpg", "x.jpg", "x.png", "X.png", "x-2.png", "a/x_1.png", "x.png.png"]
    files = [tmp_path / "in" / name for name in names]
    for seed, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(20, 24, seed)).convert("L").save(file)
    out = tmp_path / "out"
    for _ in range(2):  # the second call finds its own pictures again
        text, _ = start(model, *files, "--out", out).communicate(timeout=300)
        report = json.loads(text)
        folded = {path.casefold() for path in report["outputs"]}
        made = len([file for file in out.glob("*.png") if file.name != "contact_sheet.png"])
        overwritten = len(names) - min(len(folded), made)
        assert made == len(names)
    figure(
        "Colorize",
        f"{len(names)} photos of colliding names, twice",
        f"{overwritten} overwritten",
        "0",
    )
    assert overwritten == 0
    assert report["done_before"] == len(names)


def test_a_full_disk_ends_it_with_what_is_whole(
    model: Path, tmp_path: Path, figure: Figure
) -> None:
    photos = tmp_path / "in"
    photos.mkdir()
    for number in range(20):
        side = 20 if number < 10 else 200
        Image.fromarray(noise(side, side, number)).save(photos / f"{number:02}.png")
    out = tmp_path / "out"

    def little_room() -> None:  # every larger file ends as on a full disk, with EFBIG
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        command(model, photos, "--out", out, "--json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=little_room,
        check=False,
    )
    left = [file for file in out.rglob(".*") if file.is_file()]
    broken = 0
    for file in out.glob("*.png"):
        with Image.open(file) as image:
            try:
                image.load()
            except OSError:
                broken += 1
    error = json.loads(done.stdout)["error"]
    figure(
        "Colorize",
        "the disk full after some pictures",
        f"{len(left) + broken} partial files left, exit {done.returncode}",
        "0, exit 3",
    )
    assert done.returncode == 3
    assert f"cannot write {out}" in error["message"]
    assert not left
    assert broken == 0
    text, _ = start(model, photos, "--out", out).communicate(timeout=300)
    assert json.loads(text)["colored"] == 20


def test_a_full_stdout_is_one_line(model: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(noise(30, 40, 1)).save(photo)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(model, photo, "--out", "-"),
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 3
    [line] = [line for line in done.stderr.splitlines() if b"colours drawn" not in line]
    assert b"cannot write the picture to stdout: No space left on device" in line
