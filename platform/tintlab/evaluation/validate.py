"""Validation during training: likelihood of every photo, and a few painted to be looked at.

The whole split is priced because likelihood is cheap; sampling is not, so the same first photos
are painted with the same noise every time, and only the model changes between two panels.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import UInt8
from torch import distributed

from tintlab.data.batches import eval_batches
from tintlab.data.shards import Shards
from tintlab.evaluation.decodes import distance, lpips_name, make_lpips
from tintlab.evaluation.evaluate import paint
from tintlab.evaluation.ladder import evaluating, no_photos, teacher_forced
from tintlab.evaluation.metrics import (
    colorfulness,
    colorfulness_ratio,
    mean_psnr_db,
    psnr_db,
    ssim,
)
from tintlab.evaluation.picture import strip
from tintlab.model.colorizer import Colorizer
from tintlab.settings import EvaluationConfig

PANEL_METRICS = ("val/psnr_db", "val/ssim", "val/colorfulness_ratio")
"""What is measured on the panel's photos only; so is LPIPS, where its weights are."""


def validation_metrics(config: EvaluationConfig) -> tuple[str, ...]:
    """Names of what `validate` measures, in its order."""
    lpips = lpips_name(config)
    panel = (*PANEL_METRICS, *([f"val/{lpips}"] if lpips else []))
    return ("val/bits_per_dim", "val/parallel_bits_per_dim", *panel)


def validate(
    model: Colorizer, shards: Shards, config: EvaluationConfig, split: str = "val"
) -> tuple[dict[str, float], UInt8[np.ndarray, "_ _ 3"] | None]:
    """Bits per dimension over the split without copies, and a panel: grey | sampled | truth.

    Under torch.distributed every rank must call it; each prices its share of the photos, rank 0
    paints, all return the same metrics, and only rank 0 a panel.

    Raises: EnvironmentFault: the split holds no photo.
    """
    if not len(shards.used(split)):
        raise no_photos(split)
    parallel_run = distributed.is_initialized()
    rank = distributed.get_rank() if parallel_run else 0
    world_size = distributed.get_world_size() if parallel_run else 1

    bits, parallel_bits, photos = 0.0, 0.0, 0
    with evaluating(model):
        for batch in eval_batches(
            shards, split, config.crop_px, config.batch_size, rank=rank, world_size=world_size
        ):
            of_decoder, of_parallel = teacher_forced(model, batch)
            bits += float(of_decoder.sum())
            parallel_bits += float(of_parallel.sum())
            photos += len(batch.ids)
    panel: UInt8[np.ndarray, "_ _ 3"] | None = None
    painted: dict[str, float] = {}
    if rank == 0 and math.isfinite(bits):  # nothing can be drawn from a model that has diverged
        panel, painted = _panel(model, shards, config, split)

    # The panel's figures are 0 on every rank but the first, so that the sum is rank 0's.
    names = validation_metrics(config)
    sums = torch.tensor(
        [photos, bits, parallel_bits, *(painted.get(key, 0.0) for key in names[2:])],
        dtype=torch.float64,
        device=next(model.parameters()).device,
    )
    if parallel_run:
        distributed.all_reduce(sums)
    total, bits, parallel_bits, *of_panel = sums.tolist()
    figures = (bits / total, parallel_bits / total, *of_panel)
    return dict(zip(names, figures, strict=True)), panel


_lpips = lru_cache(maxsize=1)(make_lpips)  # its weights are read once in a training


def _panel(
    model: Colorizer, shards: Shards, config: EvaluationConfig, split: str
) -> tuple[UInt8[np.ndarray, "_ _ 3"], dict[str, float]]:
    paintings = [
        painting
        for batch in eval_batches(
            shards, split, config.crop_px, config.batch_size, limit=config.panel_images
        )
        for painting in paint(model, batch, config.temperature, config.seed)
    ]
    figures = {
        "val/psnr_db": mean_psnr_db([psnr_db(p.coloured, p.truth) for p in paintings]),
        "val/ssim": float(np.mean([ssim(p.coloured, p.truth) for p in paintings])),
        "val/colorfulness_ratio": colorfulness_ratio(
            [colorfulness(p.coloured) for p in paintings],
            [colorfulness(p.truth) for p in paintings],
        ),
    }
    if perceptual := _lpips(config):
        distances = [distance(perceptual, p.coloured, p.truth) for p in paintings]
        figures[f"val/{lpips_name(config)}"] = float(np.mean(distances))
    return strip([(p.grey, p.coloured, p.truth) for p in paintings]), figures
