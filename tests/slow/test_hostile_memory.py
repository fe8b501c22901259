"""The hostile corpus, photos as large as they may be included, within the memory of a worker."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from crafted_images import saved
from figures import Figure
from hostile_corpus import kinds, large_kinds
from lab_data_set import noise
from PIL import Image

pytestmark = pytest.mark.slow

ALLOWED_MB = 500
"""What the corpus may take beyond an ordinary run."""

ROWS_OF_A_FOLDER = """
import re, sys
from pathlib import Path
from tintlab.data.decoding.images import MAX_PIXELS
from tintlab.data.shard_format.rows import make_row

for path in sorted(Path(sys.argv[1]).iterdir()):
    row = make_row(path.read_bytes(), path.name, 256, 16, MAX_PIXELS)
    print(path.name, getattr(row, "reason", "stored"))
# Not getrusage: its peak counts the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def run(folder: Path) -> tuple[dict[str, str], int]:
    """What became of each file, and the peak memory of a process that did nothing else, in MB."""
    command = [sys.executable, "-c", ROWS_OF_A_FOLDER, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    *lines, peak_mb = output.splitlines()
    return dict(line.rsplit(" ", 1) for line in lines), int(peak_mb)


def test_the_corpus_takes_little_more_memory_than_ordinary_photos(
    tmp_path: Path, figure: Figure
) -> None:
    ordinary, hostile = tmp_path / "ordinary", tmp_path / "hostile"
    for folder in (ordinary, hostile):
        folder.mkdir()
        for seed in range(10):
            image = Image.fromarray(noise(900, 1200, seed))
            (folder / f"photo {seed}.jpg").write_bytes(saved(image, "JPEG"))
    expected = {}
    for number, kind in enumerate([*kinds(), *large_kinds()]):
        (hostile / f"{number:03d}").write_bytes(kind.data)
        expected[f"{number:03d}"] = kind.becomes.replace("duplicate", "stored")
    became, ordinary_mb = run(ordinary)
    assert set(became.values()) == {"stored"}
    became, hostile_mb = run(hostile)
    assert {name: kind for name, kind in became.items() if name in expected} == expected
    figure(
        "Images",
        f"decoding {len(expected)} hostile files: peak memory over ordinary photos",
        f"+{hostile_mb - ordinary_mb} MB ({hostile_mb} against {ordinary_mb})",
        f"at most +{ALLOWED_MB} MB",
    )
    assert hostile_mb - ordinary_mb <= ALLOWED_MB


def test_many_large_photos_take_no_more_than_one(tmp_path: Path) -> None:
    image = Image.fromarray(np.tile(noise(500, 500, 1), (6, 8, 1)))
    peaks = []
    for count in (2, 8):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            data = saved(image, "PNG", compress_level=1) if number % 2 else saved(image, "JPEG")
            (folder / f"{number}").write_bytes(data)
        peaks.append(run(folder)[1])
    assert peaks[1] <= 1.2 * peaks[0]
