"""The whole chain can learn: eight photographs by heart, to under a tenth of a bit."""

from pathlib import Path

import numpy as np
from lab_data_set import row_of, write_data_set

from tintlab.config import ExperimentConfig
from tintlab.data.photos import packaged_photos
from tintlab.data.shards import open_shards
from tintlab.training.loop import Report, train
from tintlab.training.progress import Progress

PHOTO_PX = 32


def test_eight_photographs_are_learned_to_under_a_tenth_of_a_bit(tmp_path: Path) -> None:
    # The middle of eight photographs: 64 positions of two dimensions each, 5 bits of bins.
    pictures = list(packaged_photos().values())[:8]
    middles = []
    for rgb in pictures:
        top, left = ((side - PHOTO_PX) // 2 for side in rgb.shape[:2])
        middles.append(np.ascontiguousarray(rgb[top : top + PHOTO_PX, left : left + PHOTO_PX]))
    write_data_set(str(tmp_path / "shards"), [[row_of(rgb, split="train") for rgb in middles]])
    config = ExperimentConfig().replaced(
        {
            "data.crop_px": PHOTO_PX,
            "data.flip": False,
            "evaluation.crop_px": PHOTO_PX,
            "model.depth": 3,
            "training.batch_size": 8,
            "training.steps": 100,
            "training.eval_every_steps": 10,
            "schedule.peak_lr": 1e-2,
        }
    )
    reports: list[Report] = []
    losses: list[Progress] = []
    train(
        config,
        open_shards(str(tmp_path / "shards")),
        tmp_path / "run",
        lambda *_: ({}, None),
        reports.append,
        None,
        losses.append,
    )
    bits = [report.metrics["train/bits_per_dim"] for report in reports]
    assert losses[0].loss > 5.0
    assert bits[-1] < 0.1, bits
