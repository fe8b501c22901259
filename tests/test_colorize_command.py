"""`tintlab colorize` as a user calls it: pipes, files, formats, what is refused and how.

If these fail, a picture ends up where nobody asked for it, or not as it was asked for.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lab_data_set import noise, row_of, write_data_set
from PIL import Image

from pipelines.__main__ import main
from tintlab.color.lab import srgb_to_lab
from tintlab.config import ExperimentConfig, Workspace
from tintlab.model.artifact import save_model
from tintlab.model.colorizer import Colorizer
from tintlab.serving.showcase import showcase
from tintlab.tracking.models import FoundModel

CONFIG = ExperimentConfig().replaced({"model.depth": 1, "data.crop_px": 16})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    save_model(Colorizer(CONFIG.model, CONFIG.bins), CONFIG, folder)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "in" / "photo.png"
    file.parent.mkdir()
    Image.fromarray(noise(30, 40, seed=1)).convert("L").save(file)
    return file


@pytest.fixture
def colorize(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*argv: str | Path, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        given = ["colorize", *map(str, argv), "--model", str(model), "--json"]
        assert main(given) == code
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return call


def refusal(document: dict[str, Any]) -> str:
    return str(document["error"]["message"])


def test_a_champion_from_the_cache_says_so(
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = "the tracking store does not answer; using version 3, which @champion was yesterday"
    cached = FoundModel("@champion (version 3)", model, None, 3, told)
    monkeypatch.setattr("tintlab.serving.colorize_command.find_model", lambda place, name: cached)
    assert main(["colorize", str(photo), "--out", str(tmp_path / "out")]) == 0
    out, said = capsys.readouterr()
    assert told in said
    assert told not in out


def test_stdout_carries_the_picture_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    photo: Path,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(photo.read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    for argv in (["-"], [str(photo), "--out", "-"]):
        assert main(["colorize", *argv, "--model", str(model)]) == 0
        out, said = capsysbinary.readouterr()
        assert b"coloured by" in said
        assert out.endswith(b"IEND\xaeB`\x82")
        file_argv = [str(photo), "--out", str(tmp_path / "file.png"), "--model", str(model)]
        assert main(["colorize", *file_argv]) == 0
        capsysbinary.readouterr()
        with Image.open(io.BytesIO(out)) as image, Image.open(tmp_path / "file.png") as file:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(file))
            assert image.size == (40, 30)


def test_what_comes_from_stdin_and_is_no_photo_leaves_stdout_empty(
    monkeypatch: pytest.MonkeyPatch, model: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for content, reason in ((b"", b"empty"), (b"a shopping list", b"not_an_image")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert main(["colorize", "-", "--model", str(model)]) == 3
        out, said = capfdbinary.readouterr()
        assert out == b""
        assert b"stdin could not be decoded: " + reason in said


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")]
)
def test_the_name_of_the_file_decides_its_format(
    colorize: Any, photo: Path, tmp_path: Path, name: str, kind: str
) -> None:
    report = colorize(photo, "--out", tmp_path / name)
    assert report["outputs"] == [str(tmp_path / name)]
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (40, 30))
    again = colorize(photo, "--out", tmp_path / name)
    assert again["done_before"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in", name])


def test_a_file_that_is_something_else_is_never_written_over(
    colorize: Any, photo: Path, tmp_path: Path
) -> None:
    other = tmp_path / "holiday.png"
    Image.fromarray(noise(9, 9, seed=2)).save(other)
    before = other.read_bytes()
    assert "holiday.png is there and was not made from photo.png" in refusal(
        colorize(photo, "--out", other, code=5)
    )
    assert "was not made from" in refusal(colorize(photo, "--out", photo, code=5))
    assert other.read_bytes() == before


def test_a_glob_takes_what_matches_and_folders_keep_their_shape(
    colorize: Any, photo: Path, tmp_path: Path
) -> None:
    deep = photo.parent / "1920" / "summer"
    deep.mkdir(parents=True)
    (deep / "photo.png").write_bytes(photo.read_bytes())
    out = tmp_path / "out"
    report = colorize(photo.parent, "--out", out)
    wanted = ["1920/summer/photo.png", "photo.png"]
    assert sorted(str(Path(path).relative_to(out)) for path in report["outputs"]) == wanted
    matched = colorize(f"{photo.parent}/**/ph*.png", "--out", tmp_path / "flat")
    assert sorted(Path(path).name for path in matched["outputs"]) == ["photo-2.png", "photo.png"]
    message = refusal(colorize(f"{photo.parent}/*.tif", "--out", out, code=3))
    assert "no such match for" in message


def test_a_call_leaves_a_report_and_a_contact_sheet(
    colorize: Any, photo: Path, tmp_path: Path
) -> None:
    (photo.parent / "broken.jpg").write_bytes(b"no photo")
    out = tmp_path / "out"
    printed = colorize(photo.parent, "--out", out, "--samples", "3", code=4)
    assert json.loads((out / "report.json").read_text()) == printed
    assert (printed["inputs"], printed["colored"], len(printed["outputs"])) == (2, 1, 3)
    [bad] = printed["quarantined"]
    assert (Path(bad["source"]).name, bad["reason"]) == ("broken.jpg", "not_an_image")
    with Image.open(out / "contact_sheet.png") as sheet:
        colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert np.ptp(colours.astype(int), axis=1).max() > 20
    # The sheet is nobody's photo, even where pictures and photos share a folder.
    assert colorize(out, "--out", out, code=3)["error"]["message"].startswith("no photo found")


def test_somebody_elses_report_and_sheet_are_left_alone(
    colorize: Any, photo: Path, tmp_path: Path
) -> None:
    folder = photo.parent
    (folder / "report.json").write_text('{"mine": 1}')
    Image.fromarray(noise(30, 40, 7)).save(folder / "contact_sheet.png")
    sheet = (folder / "contact_sheet.png").read_bytes()
    for _ in range(2):
        assert colorize(folder, "--out", folder)["inputs"] == 2
    assert (folder / "report.json").read_text() == '{"mine": 1}'
    assert (folder / "contact_sheet.png").read_bytes() == sheet
    assert {file.name for file in folder.iterdir()} == {
        "contact_sheet.png", "photo.png", "report.json",
        "contact_sheet-2.png", "contact_sheet-3.png", "photo-2.png", "report-2.json",
    }  # fmt: skip


def test_a_showcase_sets_the_coloured_photo_between_grey_and_truth(
    model: Path, tmp_path: Path
) -> None:
    rows = [row_of(noise(32, 32, seed), "test") for seed in range(4)]
    write_data_set(str(tmp_path / "shards"), [rows])
    shown = showcase(Workspace.at(str(tmp_path / "ws")), str(tmp_path / "shards"), str(model), 2)
    with Image.open(shown.picture) as image:
        assert image.size == (2 * (3 * 32 + 2 * 2), 2 * (2 * 32 + 2))
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert np.ptp(pixels[:64, :64], axis=2).max() <= 1  # rounding
    assert np.ptp(pixels[:64, 68:132], axis=2).max() > 20


def test_what_might_surprise_is_said_once(colorize: Any, photo: Path, tmp_path: Path) -> None:
    for seed in (3, 4):
        Image.fromarray(noise(30, 40, seed)).save(photo.parent / f"colour{seed}.png")
    first = colorize(photo.parent, "--out", tmp_path / "a")
    assert first["notes"] == ["2 photos that had colours before; only the lightness was used"]
    again = colorize(tmp_path / "a" / "photo.png", "--out", tmp_path / "b")
    assert "1 photo that tintlab had coloured before; only the lightness was used" in again["notes"]


def test_metadata_is_kept_on_request_but_for_what_is_not_true_any_more(
    colorize: Any, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "the harbour"
    exif.get_ifd(0x8769).update({0x9003: "1931:05:01 12:00:00", 0x927C: b"secret", 0xA001: 0xFFFF})
    exif.get_ifd(0x8825).update({1: "N", 2: (53.0, 33.0, 0.0)})
    photo = tmp_path / "photo.jpg"
    Image.fromarray(noise(30, 40, seed=5)).save(photo, exif=exif, icc_profile=b"a profile")
    for name in ("kept.png", "kept.jpg", "kept.webp"):
        colorize(photo, "--out", tmp_path / name, "--keep-metadata")
        with Image.open(tmp_path / name) as image:
            found = image.getexif()
            assert image.size == (30, 40)
            assert "icc_profile" not in image.info
        assert found[0x010E] == "the harbour"
        assert 0x0112 not in found
        details = found.get_ifd(0x8769)
        assert details[0x9003] == "1931:05:01 12:00:00"
        assert (details[0xA001], details[0xA002], details[0xA003]) == (1, 30, 40)
        assert 0x927C not in details
        assert found.get_ifd(0x8825)[1] == "N"
    colorize(photo, "--out", tmp_path / "bare.png")
    assert b"harbour" not in (tmp_path / "bare.png").read_bytes()


MISTAKES: list[tuple[list[str], int, str]] = [
    (["--samples", "2", "--out", "a.png"], 2, "a.png takes one picture, got --samples 2"),
    (["--out", "-"], 2, "stdout carries the picture"),
    (["--out", "a.png", "--format", "webp"], 2, "--format webp contradicts the name a.png"),
    (["--quality", "80"], 2, "PNG loses nothing"),
    (["--format", "jpeg", "--quality", "101"], 2, r"quality must be in [1, 100], got 101"),
    (["--short-side-px", "18"], 2, "use 16 or 20"),
    (["--workers", "0"], 2, "workers must be at least 1"),
    (["--out", "in/photo.png/x"], 3, "photo.png is a file"),
    (["-"], 2, "- is one photo from stdin; give it alone"),
    (["in/none.png"], 3, "no such file or folder: in/none.png"),
    (["in", "--out", "a.png"], 2, "a.png takes one picture, got 2 photos"),
]


@pytest.mark.parametrize(("argv", "code", "message"), MISTAKES)
def test_a_mistake_is_named_and_leaves_nothing(
    argv: list[str],
    code: int,
    message: str,
    colorize: Any,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (photo.parent / "second.png").write_bytes(photo.read_bytes())
    first = [] if argv[0] == "in" else ["in/photo.png"]
    assert message in refusal(colorize(*first, *argv, code=code))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_unknown_model_is_named_before_a_folder_is_made(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["colorize", str(photo), "--out", str(tmp_path / "out"), "--model", "@nobody"]
    assert main([*argv, "--workspace", str(tmp_path / "ws")]) == 3
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_stdin_wants_a_file_or_stdout(colorize: Any, tmp_path: Path) -> None:
    message = refusal(colorize("-", "--out", tmp_path / "folder", code=2))
    assert "has no name to have in the folder" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_found_before_a_model_is(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    argv = ["colorize", str(photo), "--out", str(tmp_path / "closed" / "x"), "--model", "nowhere"]
    assert main(argv) == 3
    assert "closed may not be written" in capsys.readouterr().err


def test_transparency_is_kept_or_shown_on_white(colorize: Any, tmp_path: Path) -> None:
    rgb = noise(30, 40, seed=6)
    alpha = np.zeros((30, 40), np.uint8)
    alpha[:, 20:30], alpha[:, 30:] = 128, 255
    photo = tmp_path / "photo.png"
    Image.fromarray(np.dstack([rgb, alpha])).save(photo)
    for name in ("a.png", "a.webp"):
        assert not any(
            "white" in note for note in colorize(photo, "--out", tmp_path / name)["notes"]
        )
        with Image.open(tmp_path / name) as image:
            assert image.mode == "RGBA"
            pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels[..., 3], alpha)
        difference = srgb_to_lab(np.ascontiguousarray(pixels[..., :3])) - srgb_to_lab(rgb)
        assert np.abs(difference[..., 0]).max() <= 1.0
    report = colorize(photo, "--out", tmp_path / "a.jpg")
    assert any("JPEG cannot hold: shown on white" in note for note in report["notes"])
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.asarray(image)[:, :18].min() > 245


def test_side_by_side_shows_the_grey_photo_and_the_coloured_one(
    colorize: Any, photo: Path, tmp_path: Path
) -> None:
    colorize(photo, "--out", tmp_path / "both.png", "--side-by-side")
    colorize(photo, "--out", tmp_path / "one.png")
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "one.png") as one:
        pixels, coloured = np.asarray(both), np.asarray(one)
    grey = np.asarray(Image.open(photo).convert("RGB"))
    np.testing.assert_array_equal(pixels[:, :40], grey)
    np.testing.assert_array_equal(pixels[:, 42:], coloured)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray's own
def test_workers_on_ray_make_the_same_pictures_and_fill_in_what_is_missing(
    ray_cluster: None, colorize: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(5):
        size = (30, 40) if seed % 2 else (44, 25)
        Image.fromarray(noise(*size, seed)).save(folder / f"{seed}.png")
    (folder / "bytes \udcff.png").write_bytes((folder / "1.png").read_bytes())
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    alone = colorize(folder, "--out", tmp_path / "alone", code=4)
    both = colorize(folder, "--out", tmp_path / "both", "--workers", "2", code=4)
    assert (both["colored"], both["quarantined"]) == (6, alone["quarantined"])
    made = {file.name: file.read_bytes() for file in (tmp_path / "both").glob("*.png")}
    assert made == {file.name: file.read_bytes() for file in (tmp_path / "alone").glob("*.png")}
    (tmp_path / "both" / "3.png").write_bytes(made["3.png"][:-20])  # as no call of ours leaves it
    again = colorize(folder, "--out", tmp_path / "both", "--workers", "2", code=4)
    assert again["done_before"] == 5
    assert (tmp_path / "both" / "3.png").read_bytes() == made["3.png"]
