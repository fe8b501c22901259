"""JPEG photos of 500x375 to Lab shards of 256 px: tintlab prepare against the obvious Ray pipeline.

    python benchmarks/prepare.py [--quick] [--photos N] [--rounds N] [--compression zstd]

Every measurement is a new process with a new Ray, on all cores; the time includes Python's imports
and Ray's start-up, which is also printed alone.

baseline  ray.data.read_images(size=(256, 341)), rgb2lab of scikit-image, write_parquet. It is too
          slow to run on every photo: its pace is measured on BASELINE_PHOTOS after a warm-up, and
          its time for all photos is start-up + photos / pace. That is to its advantage.
limit     our own function from bytes to an encoded row (decode, resize, Lab, pack, and compress if
          pixels are compressed) in a plain loop on one core, times the number of cores.
memory    PSS (memory of its own and its share of what is shared) summed over the process and all it
          started, Ray's own processes included, looked at once a second; the peak, with all photos
          and with a tenth of them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from jpeg_photos import write_jpeg_photos
from side_by_side import ROUNDS, cores, interleaved, report, show

from tintlab.data.prepare_config import Compression

BASELINE_PHOTOS = 300
LIMIT_PHOTOS = 300
SHORT_PX = 256


def ours(photos: str, out: str, compression: Compression) -> dict[str, float]:
    """One run of tintlab's preparation, in a new process."""
    started_s = time.perf_counter()
    from tintlab.cluster import connect
    from tintlab.config import Workspace
    from tintlab.data.prepare import PrepareConfig, prepare

    with connect(Workspace.at(f"{out}-workspace")):
        ready_s = time.perf_counter()
        config = PrepareConfig(short_side_px=SHORT_PX, compression=compression)
        result = prepare([photos], out, config)
        ended_s = time.perf_counter()
    assert result.inputs == result.stored + result.duplicates, result
    return {"startup_s": ready_s - started_s, "work_s": ended_s - ready_s}


def baseline(photos: str, out: str, compression: Compression) -> dict[str, float]:
    """The obvious pipeline on some of the photos, once to warm up and once for the clock."""
    started_s = time.perf_counter()
    import ray

    ray.init(include_dashboard=False, log_to_driver=False)
    import numpy as np
    from skimage.color import rgb2lab

    def to_lab(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        lab = rgb2lab(batch["image"]).astype(np.float32)
        return {"L": lab[..., 0], "ab": lab[..., 1:]}

    ready_s = time.perf_counter()
    ray.data.DataContext.get_current().enable_progress_bars = False
    paths = [str(path) for path in sorted(Path(photos).iterdir())[:BASELINE_PHOTOS]]

    def run(files: list[str], target: str) -> float:
        began_s = time.perf_counter()
        images = ray.data.read_images(files, size=(SHORT_PX, 341), mode="RGB")
        images.map_batches(to_lab, batch_size=32).write_parquet(target)
        return time.perf_counter() - began_s

    run(paths[:50], f"{out}-warm-up")
    return {"startup_s": ready_s - started_s, "work_s": run(paths, out)}


def limit(photos: str, out: str, compression: Compression) -> dict[str, float]:
    """Bytes to encoded rows in a plain loop, on one core."""
    import cv2
    import pyarrow as pa

    from tintlab.data.prepare import PrepareConfig
    from tintlab.data.shard_format.rows import Row, make_row
    from tintlab.data.shard_format.shard_writer import COMPRESSION_LEVEL

    cv2.setNumThreads(1)
    config = PrepareConfig(short_side_px=SHORT_PX)
    files = [path.read_bytes() for path in sorted(Path(photos).iterdir())[:LIMIT_PHOTOS]]
    codec = pa.Codec("zstd", COMPRESSION_LEVEL) if compression == "zstd" else None

    def loop(some: list[bytes]) -> None:
        for data in some:
            row = make_row(
                data, "photo.jpg", config.short_side_px, config.min_side_px, config.max_pixels
            )
            assert isinstance(row, Row), row
            if codec:
                codec.compress(row.L)
                codec.compress(row.ab)

    loop(files[:20])
    started_s = time.perf_counter()
    loop(files)
    return {"work_s": time.perf_counter() - started_s}


CHILDREN = {"ours": ours, "baseline": baseline, "limit": limit}


def measured(child: str, photos: Path, out: Path, compression: Compression) -> dict[str, float]:
    """Run one of CHILDREN in a process of its own; adds its whole time and its peak memory."""
    started_s = time.perf_counter()
    command = [sys.executable, __file__, "--child", child, str(photos), str(out), compression]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak_bytes = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            stdout, stderr = process.communicate(timeout=1)
            break
        peak_bytes = max(peak_bytes, sum(map(pss_bytes, descendants(process.pid))))
    whole_s = time.perf_counter() - started_s
    if process.returncode:
        raise SystemExit(f"{child} failed:\n{stderr}")
    for path in out.parent.glob(f"{out.name}*"):
        shutil.rmtree(path)
    inner = json.loads(stdout.splitlines()[-1])
    return {**inner, "whole_s": whole_s, "peak_mb": peak_bytes / 1e6}


def descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return found


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def main(photos: int, rounds: int, compression: Compression) -> str:
    """Measure everything; returns the JSON line."""
    with tempfile.TemporaryDirectory(prefix="tintlab-prepare-") as name:
        folder = Path(name)
        write_jpeg_photos(folder / "photos", photos)
        write_jpeg_photos(folder / "tenth", photos // 10)
        show(f"{photos} photos cut")

        def candidate(child: str) -> dict[str, float]:
            return measured(child, folder / "photos", folder / child, compression)

        def of_a_tenth() -> dict[str, float]:
            return measured("ours", folder / "tenth", folder / "out", compression)

        found = interleaved(
            {
                "ours": lambda: candidate("ours"),
                "baseline": lambda: candidate("baseline"),
                "limit": lambda: candidate("limit"),
            },
            rounds,
        )
        tenth = interleaved({"a tenth": of_a_tenth}, rounds=1)["a tenth"]
    mine, theirs = found["ours"], found["baseline"]
    images_per_s = photos / mine["whole_s"]
    pace = BASELINE_PHOTOS / theirs["work_s"]
    baseline_per_s = photos / (theirs["startup_s"] + photos / pace)
    limit_per_s = LIMIT_PHOTOS / found["limit"]["work_s"] * cores()
    return report(
        "prepare",
        {
            "photos": photos,
            "images_per_s": images_per_s,
            "images_per_s_without_startup": photos / mine["work_s"],
            "startup_s": mine["whole_s"] - mine["work_s"],
            "peak_rss_mb": mine["peak_mb"],
            "peak_rss_ratio": mine["peak_mb"] / tenth["peak_mb"],
        },
        {
            "images_per_s": baseline_per_s,
            "images_per_s_without_startup": pace,
            "startup_s": theirs["startup_s"],
            "photos_measured": BASELINE_PHOTOS,
            "limit_images_per_s": limit_per_s,
        },
        {
            "images_per_s": images_per_s / baseline_per_s,
            "images_per_s_of_limit": images_per_s / limit_per_s,
            "images_per_s_of_limit_without_startup": photos / mine["work_s"] / limit_per_s,
        },
        ("ray", "pyarrow", "scikit-image", "simplejpeg"),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 photos instead of 20,000")
    parser.add_argument("--photos", type=int, help="so many instead")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--compression", choices=("none", "zstd"), default="none")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child, *rest = arguments.child
        print(json.dumps(CHILDREN[child](*rest)))
    else:
        count = arguments.photos or (2_000 if arguments.quick else 20_000)
        print(main(count, arguments.rounds, arguments.compression))
