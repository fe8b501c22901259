"""Colouring photos: in batches, against one at a time and against the naive sampler.

    python benchmarks/colorize.py [--quick]

The default colorizer with random weights, saved and loaded as a model folder, colours 256-px photos
at its default chroma grid (the small copy is `data.crop_px` on its short side), from JPEG files to
PNG files, all stages included: read, decode, sample, upsample, join, encode, write.

batched       `serving.painter.Painter`, photos of one grid drawn together: `photos_per_s`
one_by_one    the same painter, given one photo after the other: the cached sampler, no batches
naive         the same photos with the naive sampler instead; its forwards all cost the same, so
              FORWARDS of them are timed and multiplied by the tokens of a photo, and what batched
              takes beside sampling is added
scaling       photos per second of 2 processes at once over those of 1, one core each, with the
              model loaded before the clock starts: `ratio.two_processes`
first_photo_s seconds from the command to the picture, in a new process: `tintlab colorize`, imports
              included, and no Ray, with the @champion of a workspace in SQLite, as it is by default
first_photo_of_folder_s the same with a model folder, which needs no MLflow
exponent      slope of log time over log pixels for photos of 0.25 to 16 megapixels, sampling
              included: the grid is the same, and the rest is linear (want <= 1.1)

Times but for scaling and first_photo_s are those that the core worked, which another program on the
machine cannot lengthen.
"""

import argparse
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import ROUNDS, interleaved, report, show

from tintlab.config import ExperimentConfig, Workspace
from tintlab.model.artifact import load_model, save_model
from tintlab.model.colorizer import Colorizer
from tintlab.model.noise import gumbel_row
from tintlab.model.sampler import choose
from tintlab.serving.drawing import PLAIN
from tintlab.serving.painter import Job, Painter, Style
from tintlab.serving.painting import drawn, one_thread, small_copy
from tintlab.tracking.registry import CHAMPION, register, set_alias
from tintlab.tracking.runs import open_run
from tintlab.tracking.store import ensure_store

PHOTOS, SIDE_PX = 64, 256
FORWARDS = 4
MEGAPIXELS = (0.25, 1.0, 4.0, 16.0)
ROOT = Path(__file__).resolve().parents[1]


def photo(side_px: int, seed: int) -> Image.Image:
    """Smooth, with grain: nothing in it is easier to encode than in a photo."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8))
    smooth = np.asarray(small.resize((side_px, side_px), Image.Resampling.BICUBIC), np.int16)
    grain = draw.integers(-6, 7, (side_px, side_px))
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def built(folder: Path) -> ExperimentConfig:
    """Save the default colorizer, the layers that start at zero filled, so that all count."""
    torch.manual_seed(0)
    config = ExperimentConfig()
    model = Colorizer(config.model, config.bins).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    save_model(model, config, folder)
    return config


def jobs(photos: Iterable[Path], out: Path) -> list[Job]:
    return [
        Job(number, str(file), f"{number:064x}", (str(out / f"{file.stem}.png"),))
        for number, file in enumerate(photos)
    ]


class Fresh:
    """A new folder for every call, or everything would be there already."""

    def __init__(self, root: Path) -> None:
        self._root, self._count = root, 0

    def __call__(self) -> Path:
        self._count += 1
        return self._root / f"out{self._count}"


def batched(painter: Painter, photos: list[Path], fresh: Fresh) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        began_s = time.process_time()
        outcomes = list(painter.paint(jobs(photos, fresh())))
        seconds = time.process_time() - began_s
        assert all(not outcome.reason and not outcome.done_before for outcome in outcomes)
        return {"photo_s": seconds / len(photos)}

    return measure


def one_by_one(
    painter: Painter, photos: list[Path], fresh: Fresh
) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        to_do = jobs(photos, fresh())
        began_s = time.process_time()
        for job in to_do:
            list(painter.paint([job]))
        return {"photo_s": (time.process_time() - began_s) / len(photos)}

    return measure


def sampling(
    model: Colorizer, exact: Colorizer, seen: np.ndarray, batch: int
) -> Callable[[], dict[str, float]]:
    """What drawing costs alone: in a batch with the cached sampler, and naively, for each photo."""
    L = torch.from_numpy(seen)[None, None]
    grid = [side // model.stride for side in seen.shape]
    channels, bins = model.bins.channels, model.bins.count
    tokens = torch.zeros((1, channels, *grid), dtype=torch.int64)
    noise = gumbel_row([0], 0, grid[1], channels, bins)[:, 0, 0]

    def measure() -> dict[str, float]:
        with one_thread(), torch.inference_mode():
            began_s = time.process_time()
            drawn(exact, [seen] * batch, range(batch), PLAIN)
            cached_s = time.process_time() - began_s
            cond = model.encode(L)
            began_s = time.process_time()
            for _ in range(FORWARDS):
                logits = model.decoder_logits(cond, tokens)[:, 0, :, 0, 0]
                tokens[:, 0, 0, 0] = choose(logits, noise, 1.0, 1.0).token
            forward_s = (time.process_time() - began_s) / FORWARDS
        naive_s = forward_s * channels * grid[0] * grid[1]
        return {"cached_s": cached_s / batch, "naive_s": naive_s}

    return measure


def _process(folder: Path, style: Style, to_do: list[Job], start: Barrier) -> None:
    torch.set_num_threads(1)
    painter = Painter(load_model(folder)[0], style)
    start.wait()
    list(painter.paint(to_do))
    start.wait()


def processes(
    count: int, folder: Path, style: Style, photos: list[Path], fresh: Fresh
) -> Callable[[], dict[str, float]]:
    """The photos shared out to so many processes that are ready."""
    spawn = multiprocessing.get_context("spawn")

    def measure() -> dict[str, float]:
        to_do, start = jobs(photos, fresh()), spawn.Barrier(count + 1)
        running = [
            spawn.Process(target=_process, args=(folder, style, to_do[part::count], start))
            for part in range(count)
        ]
        for process in running:
            process.start()
        start.wait()
        began_s = time.perf_counter()
        start.wait()
        seconds = time.perf_counter() - began_s
        for process in running:
            process.join()
        return {"photos_per_s": len(photos) / seconds}

    return measure


def champion_of(root: Path, folder: Path) -> Workspace:
    """A workspace in which the model is @champion."""
    place = Workspace.at(str(root / "workspace"))
    ensure_store(place)
    run = open_run(place, "train", "photo", "train/photo")
    assert run.close("FINISHED")
    set_alias(place, register(place, run.run_id, folder), CHAMPION)
    return place


def first_photo(model: tuple[str, ...], file: Path, fresh: Fresh) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        out = fresh() / "photo.png"
        out.parent.mkdir()
        command = [sys.executable, "-m", "pipelines", "colorize", str(file)]
        began_s = time.perf_counter()
        subprocess.run(
            [*command, *model, "--out", str(out)],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        seconds = time.perf_counter() - began_s
        assert out.is_file()
        return {"seconds": seconds}

    return measure


def exponent(pixels: list[float], seconds: list[float]) -> float:
    """Least-squares slope of log seconds over log pixels."""
    slope = statistics.linear_regression([*map(math.log, pixels)], [*map(math.log, seconds)])
    return slope.slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer photos, fewer turns, to 4 MP")
    quick = parser.parse_args().quick
    rounds, count = (1, 16) if quick else (ROUNDS, PHOTOS)
    megapixels = MEGAPIXELS[:3] if quick else MEGAPIXELS
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder, fresh = root / "model", Fresh(root)
        config = built(folder)
        style = Style(config.data.crop_px, PLAIN)
        model, _ = load_model(folder)
        painter = Painter(model, style)
        photos = []
        for number in range(count):
            photos.append(root / f"{number:03}.jpg")
            photo(SIDE_PX, number).save(photos[-1], quality=90)
        large = {}
        for size in megapixels:
            large[size] = root / f"large {size}.jpg"
            photo(round((size * 1e6) ** 0.5), 0).save(large[size], quality=90)

        lightness = np.asarray(photo(SIDE_PX, 0), np.float32) * (100 / 255)
        seen = small_copy(lightness, style.short_side_px, model.stride)
        exact = load_model(folder)[0].double()
        list(painter.paint(jobs(photos[:2], fresh())))  # warm
        found = interleaved(
            {
                "batched": batched(painter, photos, fresh),
                "one by one": one_by_one(painter, photos[: len(photos) // 4], fresh),
                "sampling": sampling(model, exact, seen, 16),
                **{f"{size} MP": batched(painter, [file], fresh) for size, file in large.items()},
            },
            rounds,
        )
        show("processes")
        place = champion_of(root, folder)
        by_clock = interleaved(
            {
                "one process": processes(1, folder, style, photos, fresh),
                "two processes": processes(2, folder, style, photos, fresh),
                "first photo": first_photo(("--workspace", place.root), photos[0], fresh),
                "of a folder": first_photo(("--model", str(folder)), photos[0], fresh),
            },
            rounds,
        )
    ours, alone = found["batched"]["photo_s"], found["one by one"]["photo_s"]
    draw = found["sampling"]
    naive = ours - draw["cached_s"] + draw["naive_s"]
    seconds = {size: found[f"{size} MP"]["photo_s"] for size in megapixels}
    one, two = (by_clock[name]["photos_per_s"] for name in ("one process", "two processes"))
    metrics = {
        "photos_per_s": 1 / ours,
        "sampling_share": draw["cached_s"] / ours,
        "photos_per_s_of_processes": {"1": one, "2": two},
        "first_photo_s": by_clock["first photo"]["seconds"],
        "first_photo_of_folder_s": by_clock["of a folder"]["seconds"],
        "photo_s_of_megapixels": {f"{size}": value for size, value in seconds.items()},
        "time_exponent": exponent([*seconds], [*seconds.values()]),
        "grid": [side // model.stride for side in seen.shape],
        "quick": quick,
    }
    baseline = {
        "one_by_one_photos_per_s": 1 / alone,
        "naive_photos_per_s": 1 / naive,
        "naive_sampling_s": draw["naive_s"],
        "naive_forwards_timed": FORWARDS,
    }
    ratio = {
        "over_one_by_one": alone / ours,
        "over_naive": naive / ours,
        "sampling_over_naive": draw["naive_s"] / draw["cached_s"],
        "two_processes": two / one,
    }
    print(report("colorize", metrics, baseline, ratio, ("torch", "Pillow")))


if __name__ == "__main__":
    main()
