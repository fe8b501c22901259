"""64-px random crops per second on one core: Lab shards against the usual JPEG loaders.

    python benchmarks/loader.py [--quick]          needs: pip install 'tintlab[bench]'

Every candidate gives batches of 64 crops in Lab, as float32 tensors, in random order, from photos
of 256 px on the short side. All cut the same crop out of a photo in an epoch, drawn by the same
code while it is timed. One process, pinned to one core, no worker processes or threads anywhere.
Files are in the operating system's cache for all.

The others decode JPEG with libjpeg-turbo (simplejpeg, its faster DCT) and convert only the crop,
with tintlab's own conversion. They read the photos as they were taken (500x375, decoded at 6/8, the
crop's part made smaller), and again as small copies (256 px, quality 90), which lose detail but are
the fastest that JPEG can be; ratio.crops_per_s is against the fastest of all. `mds_raw` stores
decoded RGB in MDS: no JPEG, and listed apart.

The first epoch is the one after opening. `shards` is what prepare writes unless told otherwise:
uncompressed pixels, mapped into memory. `shards_zstd` is compressed: its first epoch decompresses
and keeps the pixels on the local disk for the later ones. The price in bytes is printed. Figures
that end in _cpu count the time that the core worked for the candidate, which another program on the
machine cannot lengthen.
"""

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pyarrow
import simplejpeg
import torch
from jpeg_photos import jpeg, write_jpeg_photos
from side_by_side import interleaved, report, show
from torch.utils.data import DataLoader, Dataset

from tintlab.color.lab import srgb_to_lab
from tintlab.config import Workspace
from tintlab.data.augment import Place
from tintlab.data.batches import Stream, train_batches
from tintlab.data.decoding.images import resize
from tintlab.data.shards import Shards, open_shards
from tintlab.errors import EnvironmentFault, TintlabError
from tintlab.settings import DataConfig

CROP_PX, BATCH, SHORT_PX = 64, 64, 256
CONFIG = DataConfig(crop_px=CROP_PX, flip=False, loader_threads=0)
Crop = Callable[[int, int], Place]
"""Where to cut, by epoch and number of the photo."""


def small(data: bytes) -> bytes:
    """A photo's small copy."""
    return jpeg(resize(simplejpeg.decode_jpeg(data), SHORT_PX))


def cropped(data: bytes, place: Place) -> np.ndarray:
    """A crop of a JPEG in Lab; one that is larger than 256 px is made smaller first."""
    rgb = simplejpeg.decode_jpeg(
        data, fastdct=True, fastupsample=True, min_height=SHORT_PX, min_width=SHORT_PX
    )
    scale = min(rgb.shape[:2]) / SHORT_PX
    top, left, side = (round(v * scale) for v in (place.top, place.left, CROP_PX))
    part = rgb[top : top + side, left : left + side]
    if side != CROP_PX:
        part = cv2.resize(part, (CROP_PX, CROP_PX), interpolation=cv2.INTER_AREA)
    return srgb_to_lab(part)


def stacked(crops: list[np.ndarray]) -> torch.Tensor:
    """A batch (B, 3, H, W)."""
    return torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).copy())


class JpegFiles(Dataset):
    """A plain data set over files, as PyTorch's tutorial has it."""

    def __init__(self, paths: list[Path], crop_of: Crop) -> None:
        self.paths = paths
        self.crop_of = crop_of
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> np.ndarray:
        return cropped(self.paths[number].read_bytes(), self.crop_of(self.epoch, number))


def crops_per_s(batches: Iterable[object], photos: int) -> tuple[float, float]:
    """The pace of one epoch, by the clock and by the time the core worked for us."""
    started_s, worked_s = time.perf_counter(), time.process_time()
    for _ in batches:
        pass
    return (
        photos / (time.perf_counter() - started_s),
        photos / (time.process_time() - worked_s),
    )


def two_epochs(photos: int, epoch: Callable[[int], Iterable[object]]) -> dict[str, float]:
    """The pace of the first epoch after opening, and of the next."""
    first, later = crops_per_s(epoch(0), photos), crops_per_s(epoch(1), photos)
    return {
        "first_epoch": first[0],
        "later_epochs": later[0],
        "first_epoch_cpu": first[1],
        "later_epochs_cpu": later[1],
    }


def files_candidate(paths: list[Path], crop_of: Crop) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        data = JpegFiles(paths, crop_of)
        loader = DataLoader(data, BATCH, shuffle=True, num_workers=0, collate_fn=stacked)

        def epoch(number: int) -> Iterable[object]:
            data.epoch = number
            return loader

        return two_epochs(len(paths), epoch)

    return measure


def batched(samples: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
    pending = iter(samples)
    while crops := list(islice(pending, BATCH)):
        yield stacked(crops)


def webdataset_candidate(
    paths: list[Path], crop_of: Crop, folder: Path
) -> Callable[[], dict[str, float]]:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(f"file:{folder}/%04d.tar", maxcount=1000, verbose=0) as tar:
        for number, path in enumerate(paths):
            tar.write({"__key__": f"{number:06}", "jpg": path.read_bytes()})
    urls = sorted(f"file:{path}" for path in folder.glob("*.tar"))

    def measure() -> dict[str, float]:
        data = webdataset.WebDataset(urls, shardshuffle=100, seed=0).shuffle(1000)

        def epoch(number: int) -> Iterable[object]:
            return batched(cropped(s["jpg"], crop_of(number, int(s["__key__"]))) for s in data)

        return two_epochs(len(paths), epoch)

    return measure


def mds_candidate(
    paths: list[Path], crop_of: Crop, folder: Path, raw: bool
) -> Callable[[], dict[str, float]]:
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    column = {"number": "int", "photo": "ndarray:uint8" if raw else "bytes"}
    with MDSWriter(out=str(folder), columns=column) as mds:
        for number, path in enumerate(paths):
            data = path.read_bytes()
            mds.write({"number": number, "photo": simplejpeg.decode_jpeg(data) if raw else data})

    def crop(sample: dict, number: int) -> np.ndarray:
        place = crop_of(number, sample["number"])
        if not raw:
            return cropped(sample["photo"], place)
        rows, columns = (slice(v, v + CROP_PX) for v in (place.top, place.left))
        return srgb_to_lab(sample["photo"][rows, columns])

    def measure() -> dict[str, float]:
        clean_stale_shared_memory()
        data = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
        return two_epochs(len(paths), lambda number: batched(crop(s, number) for s in data))

    return measure


def crops_of(shards: Shards) -> Crop:
    """The crop that tintlab's own stream draws of a photo in an epoch, drawn by the same code."""
    stream = Stream(shards, CONFIG, BATCH, seed=0)
    row = {index: number for number, index in enumerate(stream.photos.tolist())}
    place_in_stream = {
        at // len(row) * len(row) + row[stream.drawn(at)[0]]: at for at in range(2 * len(row))
    }
    return lambda epoch, number: stream.drawn(place_in_stream[epoch * len(row) + number])[1]


def shards_candidate(uri: str, pixels: Path | None) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        if pixels:
            shutil.rmtree(pixels, ignore_errors=True)
        shards = open_shards(uri, pixels)
        photos = len(shards.trainable("train"))
        stream = train_batches(shards, CONFIG, BATCH, seed=0)
        return two_epochs(photos, lambda _: islice(stream, -(-photos // BATCH)))

    return measure


def bytes_of(*paths: Path) -> int:
    """Of files, and of all files in folders."""
    files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    return sum(file.stat().st_size for file in files if file.is_file())


def prepared(folder: Path, photos: int) -> tuple[str, str, list[Path]]:
    """Shards of JPEG photos, the same compressed, and the files that are trained on, in order."""
    from tintlab.cluster import connect
    from tintlab.data.prepare import PrepareConfig, prepare

    paths = write_jpeg_photos(folder / "photos", photos)
    show(f"{photos} photos cut; preparing shards")
    with connect(Workspace.at(str(folder / "workspace"))):
        prepare([str(folder / "photos")], str(folder / "shards"), PrepareConfig())
        compressed = PrepareConfig(compression="zstd")
        prepare([str(folder / "photos")], str(folder / "shards_zstd"), compressed)
    shards = open_shards(str(folder / "shards"))
    by_id = {hashlib.sha256(path.read_bytes()).hexdigest()[:16]: path for path in paths}
    kept = shards.ids("train", shards.trainable("train").tolist())
    return str(folder / "shards"), str(folder / "shards_zstd"), [by_id[name] for name in kept]


def require_same_crops(shards: Shards, copies: list[Path], crop_of: Crop) -> None:
    """A batch of ours shows what the others cut out of the small copies, but for JPEG's losses."""
    names = shards.ids("train", shards.trainable("train").tolist())
    batch = next(train_batches(shards, CONFIG, BATCH, seed=0))
    numbers = [names.index(name) for name in batch.ids]
    others = np.stack([cropped(copies[at].read_bytes(), crop_of(0, at)) for at in numbers])
    assert np.abs(batch.L[:, 0].numpy() - others[..., 0]).mean() < 3


def main(photos: int) -> str:
    """Measure everything; returns the JSON line."""
    try:
        import streaming  # noqa: F401
        import webdataset  # noqa: F401
    except ImportError as error:
        raise EnvironmentFault(
            f"{error.name} is not installed, and the comparison needs it; "
            "run: pip install --constraint constraints.txt 'tintlab[bench]'"
        ) from None
    with tempfile.TemporaryDirectory(prefix="tintlab-loader-") as name:
        folder = Path(name)
        uri, compressed_uri, taken = prepared(folder, photos)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        pyarrow.set_cpu_count(1)
        (folder / "small").mkdir()
        copies = [folder / "small" / path.name for path in taken]
        for path, copy in zip(taken, copies, strict=True):
            copy.write_bytes(small(path.read_bytes()))
        shards = open_shards(uri)
        crop_of = crops_of(shards)
        require_same_crops(shards, copies, crop_of)
        ours = {
            "shards": shards_candidate(uri, None),
            "shards_zstd": shards_candidate(compressed_uri, folder / "pixels"),
        }
        others = {
            "files_500x375": files_candidate(taken, crop_of),
            "files_256": files_candidate(copies, crop_of),
            "webdataset_500x375": webdataset_candidate(taken, crop_of, folder / "tar"),
            "webdataset_256": webdataset_candidate(copies, crop_of, folder / "tar_256"),
            "mds_500x375": mds_candidate(taken, crop_of, folder / "mds", raw=False),
            "mds_256": mds_candidate(copies, crop_of, folder / "mds_256", raw=False),
            "mds_raw": mds_candidate(copies, crop_of, folder / "mds_raw", raw=True),
        }
        found = interleaved({**ours, **others})
        disk = {
            "shards": bytes_of(folder / "shards"),
            "shards_zstd": bytes_of(folder / "shards_zstd"),
            "kept_pixels_of_zstd": bytes_of(folder / "pixels"),
            "files_500x375": bytes_of(*taken),
            "files_256": bytes_of(*copies),
            "webdataset_256": bytes_of(folder / "tar_256"),
            "mds_256": bytes_of(folder / "mds_256"),
            "mds_raw": bytes_of(folder / "mds_raw"),
        }
        share = len(taken) / photos  # the shards hold validation and test photos as well
        disk |= {name: int(disk[name] * share) for name in ours}
    jpegs = {name: found[name] for name in others if name != "mds_raw"}
    mine = found["shards"]
    best = {key: max(figures[key] for figures in jpegs.values()) for key in mine}
    best_taken = {
        key: max(figures[key] for name, figures in jpegs.items() if name.endswith("500x375"))
        for key in mine
    }
    return report(
        "loader",
        {
            "photos": len(taken),
            "crops_per_s": {name: found[name] for name in ours},
            "bytes_per_photo": {key: value / len(taken) for key, value in disk.items()},
        },
        {"crops_per_s": {name: found[name] for name in others}, "best": best},
        {
            "crops_per_s": mine["later_epochs"] / best["later_epochs"],
            "crops_per_s_cpu": mine["later_epochs_cpu"] / best["later_epochs_cpu"],
            "crops_per_s_first_epoch": mine["first_epoch"] / best["first_epoch"],
            "crops_per_s_first_epoch_cpu": mine["first_epoch_cpu"] / best["first_epoch_cpu"],
            "crops_per_s_as_taken": mine["later_epochs"] / best_taken["later_epochs"],
            "crops_per_s_as_taken_first_epoch": mine["first_epoch"] / best_taken["first_epoch"],
            "crops_per_s_mds_raw": mine["later_epochs"] / found["mds_raw"]["later_epochs"],
            "bytes_of_shards": disk["shards"] / disk["files_256"],
            "bytes_of_shards_zstd": disk["shards_zstd"] / disk["files_256"],
        },
        ("torch", "webdataset", "mosaicml-streaming", "simplejpeg", "pyarrow"),
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="1,000 photos instead of 3,000")
    try:
        print(main(1000 if arguments.parse_args().quick else 3000))
    except TintlabError as error:
        show(f"loader: {error}")
        raise SystemExit(error.exit_code) from None
