"""`tintlab shards`, and the way to the pixels that the documentation shows."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_data_set import noise, row_of, write_data_set
from PIL import Image

from pipelines.__main__ import main
from tintlab.data.contact_sheet import CELL_PX, ab_histogram, thumbnail
from tintlab.data.shard_format.ab_statistics import BINS
from tintlab.data.shards import open_shards

ROOT = Path(__file__).parents[1]


@pytest.fixture
def data_set(tmp_path: Path) -> str:
    splits = ("train", "train", "val", "test")
    rows = [row_of(noise(30 + i, 60, i), splits[i % 4]) for i in range(12)]
    write_data_set(str(tmp_path / "set"), [rows[:7], rows[7:]])
    return str(tmp_path / "set")


def test_show_prints_figures_and_draws_two_pictures(
    data_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["shards", "show", data_set, "--out", str(tmp_path / "pictures")]
    assert main([*argv, "--dry-run"]) == 0
    assert not (tmp_path / "pictures").exists()
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["photos"] == 6
    assert found["splits"]["val"]["width_px"] == [60, 60, 60]
    assert found["splits"]["train"]["height_px"][0] == 30
    assert set(found["channels"]) == {"L", "a", "b"}
    for name in ("contact_sheet", "ab_histogram"):
        assert Path(found[name]).parent == tmp_path / "pictures"
        with Image.open(found[name]) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 100
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert str(tmp_path / "pictures" / "contact_sheet.png") in text
    assert found["fingerprint"] in text
    assert sorted(path.name for path in Path(data_set).iterdir())[0] == "manifest.json"


def test_show_without_a_place_for_pictures_uses_the_workspace(
    data_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "show", data_set, "--workspace", str(tmp_path / "ws")]) == 0
    assert (tmp_path / "ws" / "reports" / "shards" / "ab_histogram.png").is_file()
    capsys.readouterr()


def test_a_thumbnail_is_the_photo(data_set: str) -> None:
    image = thumbnail(open_shards(data_set), "train", 0)
    truth = Image.fromarray(noise(30, 60, 0))
    assert image.size == (60, 30)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(truth)).max() <= 1


def test_the_histogram_shows_colours_where_they_are(tmp_path: Path) -> None:
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255  # a = 80, b = 67
    write_data_set(str(tmp_path), [[row_of(red, "train")]])
    picture = np.asarray(ab_histogram(open_shards(str(tmp_path)).manifest.ab)).astype(int)
    row, column = BINS - 1 - (67 + 110) // 10, (80 + 110) // 10
    margin = (picture.shape[0] - BINS * CELL_PX) // 2
    cell = picture[margin + row * CELL_PX + 5, margin + column * CELL_PX + 5]
    assert cell[0] > cell[2] + 100  # reddish, at the upper right
    elsewhere = picture[margin + 5, margin + 5]
    assert (elsewhere == 255).all()


def test_verify_names_what_is_wrong_and_exits_7(
    data_set: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "verify", data_set]) == 0
    assert "is whole: 2 shards, 12 photos" in capsys.readouterr().out
    first, second = sorted(Path(data_set).glob("shard-*.parquet"))
    data = bytearray(first.read_bytes())
    data[50] ^= 1
    first.write_bytes(data)
    second.unlink()
    assert main(["shards", "verify", data_set, "--json"]) == 7
    message = json.loads(capsys.readouterr().out)["error"]["message"]
    assert f"{first.name} is not what was written: its SHA-256 differs" in message
    assert f"{second.name} is missing" in message
    assert main(["shards", "verify", str(Path(data_set).parent / "nothing")]) == 3
    assert main(["shards", "check", data_set]) == 2
    capsys.readouterr()


def test_the_example_in_the_documentation_gives_the_picture(data_set: str) -> None:
    page = (ROOT / "docs" / "shards.md").read_text()
    whole, with_pyarrow = re.findall(r"```python\n(.*?)```", page, re.S)
    opens = next(line for line in whole.splitlines() if line.startswith("photo ="))
    shard = sorted(Path(data_set).glob("shard-*.parquet"))[0]
    for code in (whole, whole.replace(opens, with_pyarrow).replace("import pandas as pd", "")):
        lines = [line for line in code.splitlines() if line and "import" not in line]
        assert len(lines) <= 10
        names: dict[str, Any] = {"shard": shard}
        exec(code, names)
        photo = names["photo"]
        height, width = photo["height"], photo["width"]
        assert width == 60
        expected = noise(height, width, height - 30)
        assert np.abs(names["rgb"].astype(int) - expected).max() <= 1
