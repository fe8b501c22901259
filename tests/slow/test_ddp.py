"""Several workers train what one trains: the same losses, averages and validations."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from tintlab.config import ExperimentConfig
from tintlab.data.manifest import Manifest, QuarantineSummary, fingerprint
from tintlab.data.rows import Row, make_row
from tintlab.data.shard_writer import ShardWriter, entry_of
from tintlab.data.shards import Shards, open_shards
from tintlab.data.storage import resolve, written
from tintlab.model.colorizer import Colorizer
from tintlab.training.checkpoints import Checkpoints
from tintlab.training.loop import Report, train

pytestmark = pytest.mark.slow

CONFIG = ExperimentConfig().replaced(
    {
        "data.crop_px": 16,
        "evaluation.crop_px": 16,
        "bins.per_channel": 8,
        "model.depth": 1,
        "model.dropout": 0.1,
        "training.steps": 50,
        "training.batch_size": 12,
        "training.eval_every_steps": 25,
    }
)


def small_shards(folder: Path, seed: int = 0) -> str:
    """Eight photos of 16 px to train on, each with its own pair of colours; returns the URI."""
    draw = np.random.default_rng(seed)
    fs, root = resolve(str(folder))
    with written(fs, f"{root}/shard-{seed:016}.parquet") as file:
        writer = ShardWriter(file, key="test")
        for _ in range(8):
            rgb = draw.integers(0, 256, (2, 1, 3)).repeat(8, axis=0).repeat(16, axis=1)
            rgb = np.clip(rgb + draw.integers(-20, 21, (16, 16, 1)), 0, 255).astype(np.uint8)
            _, png = cv2.imencode(".png", rgb)
            row = make_row(png.tobytes(), "test", None, min_side_px=16, max_pixels=256)
            assert isinstance(row, Row)
            writer.add(replace(row, split="train"))
        summary = writer.finish()
    shards = [entry_of(fs, f"{root}/shard-{seed:016}.parquet", rows=8)]
    Manifest(
        generation=1,
        parameters={},
        split_rule="all of it is for training",
        shards=shards,
        counts=summary.counts,
        smallest=summary.smallest,
        ab=summary.ab,
        quarantine=QuarantineSummary(table=None, reasons={}),
        fingerprint=fingerprint({}, shards),
    ).write(fs, root)
    return str(folder)


def score(model: Colorizer, shards: Shards) -> tuple[dict[str, float], None]:
    return {"val/bits_per_dim": 3.0 + next(iter(model.parameters())).mean().item()}, None


def worker(rank: int, world_size: int, uri: str, folder: str, accumulation: int) -> None:
    """One rank, in a process of its own; writes what it was told."""
    torch.set_num_threads(1)
    home = Path(folder)
    distributed.init_process_group(
        "gloo", init_method=f"file://{home}/meeting", rank=rank, world_size=world_size
    )
    config = CONFIG.replaced({"training.accumulation": accumulation})
    losses: list[float] = []
    reports: list[Report] = []
    train(
        config,
        open_shards(uri),
        home / "checkpoints",
        score,
        reports.append,
        Checkpoints(home / "checkpoints").newest(),
        lambda progress: losses.append(progress.loss),
    )
    told = {
        "losses": losses,
        "metrics": [{k: v for k, v in r.metrics.items() if "perf" not in k} for r in reports],
        "wrote": [r.checkpoint is not None for r in reports],
    }
    (home / f"rank{rank}.json").write_text(json.dumps(told))
    distributed.destroy_process_group()


def trained(world_size: int, uri: str, folder: Path, accumulation: int) -> list[dict]:
    folder.mkdir()
    arguments = (world_size, uri, str(folder), accumulation)
    multiprocessing.spawn(worker, arguments, nprocs=world_size)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world_size)]


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 3), (3, 2), (6, 1)])
def test_workers_equal_one_worker_with_as_many_micro_batches(tmp_path, world_size, accumulation):
    """Dropout included: a micro-batch draws by its place in the stream, whoever computes it."""
    uri = small_shards(tmp_path / "shards")
    [one] = trained(1, uri, tmp_path / "one", accumulation=6)
    many = trained(world_size, uri, tmp_path / "many", accumulation)
    assert many[0]["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for rank, told in enumerate(many):
        assert told["losses"] == many[0]["losses"]  # every rank reports the whole batch
        assert told["metrics"] == many[0]["metrics"]
        assert told["wrote"] == [rank == 0, rank == 0]
    for got, expected in zip(many[0]["metrics"], one["metrics"], strict=True):
        assert got == pytest.approx(expected, abs=1e-4)
