"""The learned upsampler against bilinear and nearest: ab error on held-out tiles.

    python benchmarks/upsampler.py [--quick]

It is trained alone, as in training: pixel loss on true coarse colours of random 64-px crops of the
train split, AdamW of the default configuration. Scored on the whole tiles of the test split, which
are other places of the same photographs: mean CIE ab distance per pixel, in ab units, from true
coarse colours and from quantised ones, which is what a sampler gives. `gain_over_*` is how much
lower the learned error is on the same tiles, with its 95 % bootstrap interval over photographs and
their tiles.
"""

import argparse

import numpy as np
import torch
from packaged_tiles import interval, packaged_shards, photographs
from side_by_side import report, show
from torch.nn import functional as F

from tintlab.config import ExperimentConfig
from tintlab.data.batches import Batch, eval_batches, train_batches
from tintlab.data.shards import Shards
from tintlab.model.colorizer import Colorizer
from tintlab.model.upsampler import Bilinear
from tintlab.training.losses import pixel_huber
from tintlab.training.optimizer import adamw
from tintlab.training.schedule import learning_rate

CROP_PX, TILE_PX, BATCH = 64, 96, 16
STEPS, QUICK_STEPS = 400, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="train for a tenth of the steps")
    steps = QUICK_STEPS if parser.parse_args().quick else STEPS
    with packaged_shards() as shards:
        model = trained(shards, steps)
        tiles = [
            photo for batch in eval_batches(shards, "test", TILE_PX, BATCH) for photo in batch.ids
        ]
        cut_from = photographs(shards, tiles)
        errors = {
            grid: measured(model, shards, quantised=grid == "quantised")
            for grid in ("true", "quantised")
        }
    metrics: dict[str, object] = {
        "tiles": len(errors["true"]["learned"]),
        "steps": steps,
        "parameters": sum(p.numel() for p in model.upsampler.parameters()),
    }
    baseline: dict[str, object] = {}
    ratio = {}
    for grid, of_methods in errors.items():
        learned = of_methods["learned"]
        metrics[f"ab_error_{grid}"] = float(learned.mean())
        for method in ("bilinear", "nearest"):
            other = of_methods[method]
            metrics[f"gain_over_{method}_{grid}"] = interval((other - learned)[None], cut_from)
            baseline[f"{method}_ab_error_{grid}"] = float(other.mean())
            ratio[f"error_{grid}/{method}"] = float(learned.mean() / other.mean())
    print(report("upsampler", metrics, baseline, ratio, ("torch",)))


def trained(shards: Shards, steps: int) -> Colorizer:
    """A colorizer of which only the upsampler has learned."""
    config = ExperimentConfig().replaced({"data.crop_px": CROP_PX})
    torch.manual_seed(config.training.seed)
    model = Colorizer(config.model, config.bins)
    optimizer = adamw(model.upsampler, config.optimizer)
    batches = train_batches(shards, config.data, BATCH, seed=0)
    for step in range(steps):
        batch = next(batches)
        loss = pixel_huber(model.upsample(model.coarsen(batch.ab), batch.L), batch.ab).mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.schedule, steps)
        optimizer.step()
        if (step + 1) % 50 == 0:
            show(f"step {step + 1} of {steps}: Huber loss {loss.item():.4f}")
    return model


@torch.no_grad()
def measured(model: Colorizer, shards: Shards, quantised: bool) -> dict[str, np.ndarray]:
    """Mean ab distance of every test tile, by method."""
    errors: dict[str, list[np.ndarray]] = {"learned": [], "bilinear": [], "nearest": []}
    for batch in eval_batches(shards, "test", TILE_PX, BATCH):
        coarse = model.coarsen(batch.ab)
        if quantised:
            coarse = model.bins.decode(model.bins.quantize(coarse))
        for method, ab in painted(model, coarse, batch).items():
            distance = (ab - batch.ab).square().sum(dim=1).sqrt()  # (B, H, W)
            errors[method].append(distance.mean(dim=(1, 2)).numpy())
    return {method: np.concatenate(parts) for method, parts in errors.items()}


def painted(model: Colorizer, coarse: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """Full-resolution ab by each method."""
    return {
        "learned": model.upsample(coarse, batch.L),
        "bilinear": Bilinear()(coarse, batch.L),
        "nearest": F.interpolate(coarse, size=batch.L.shape[2:], mode="nearest"),
    }


if __name__ == "__main__":
    main()
