"""The learned upsampler against bilinear and nearest: ab error on held-out tiles.

    python benchmarks/upsampler.py [--quick] [--seeds 3]

It is trained alone, as in training: pixel loss on true coarse colours of random 64-px crops of the
train split, exact in one half and quantised in the other, AdamW of the default configuration, the
stem whose skip features it reads with it. `L_alone` is the same without skip features. Scored on
the whole tiles of the test split, which are other places of the same photographs: mean CIE ab
distance per pixel, in ab units, from true coarse colours and from quantised ones, which is what a
sampler gives. `gain_over_*` is how much lower the learned error is on the same tiles, with its 95 %
bootstrap interval over seeds, photographs and their tiles.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from packaged_tiles import interval, packaged_shards, photographs
from side_by_side import report, show
from torch import Tensor, nn
from torch.nn import functional as F

from tintlab.config import ExperimentConfig
from tintlab.data.batches import Batch, eval_batches, train_batches
from tintlab.data.shards import Shards
from tintlab.model.colorizer import Colorizer
from tintlab.model.upsampler import Bilinear, Upsampler
from tintlab.training.losses import pixel_huber
from tintlab.training.objective import half_quantised
from tintlab.training.optimizer import adamw
from tintlab.training.schedule import learning_rate

CROP_PX, TILE_PX, BATCH = 64, 96, 16
STEPS, QUICK_STEPS = 400, 40
SEEDS = 3
Upsampling = Callable[[Tensor, Tensor], Tensor]
"""Coarse ab and L to full-resolution ab."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, one seed")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each kind")
    given = parser.parse_args()
    steps, seeds = (QUICK_STEPS, 1) if given.quick else (STEPS, given.seeds)
    with packaged_shards() as shards:
        model = colorizer(seed=0)
        learned = {
            name: [trained(shards, steps, seed, skips) for seed in range(seeds)]
            for name, skips in (("learned", True), ("L_alone", False))
        }
        methods: dict[str, list[Upsampling]] = {
            **learned,
            "bilinear": [Bilinear()],
            "nearest": [lambda ab, L: F.interpolate(ab, size=L.shape[2:], mode="nearest")],
        }
        tiles = list(eval_batches(shards, "test", TILE_PX, BATCH))
        cut_from = photographs(shards, [photo for batch in tiles for photo in batch.ids])
        grids = {"true": False, "quantised": True}
        errors = {
            grid: {name: measured(each, model, tiles, quantised) for name, each in methods.items()}
            for grid, quantised in grids.items()
        }
    metrics: dict[str, object] = {
        "tiles": len(cut_from),
        "steps": steps,
        "seeds": seeds,
        "parameters": sum(p.numel() for p in model.upsampler.parameters()),
    }
    baseline: dict[str, object] = {}
    ratio = {}
    for grid, of_methods in errors.items():
        ours = of_methods["learned"]
        metrics[f"ab_error_{grid}"] = float(ours.mean())
        for method in ("bilinear", "nearest", "L_alone"):
            other = of_methods[method]
            metrics[f"gain_over_{method}_{grid}"] = interval(other - ours, cut_from)
            baseline[f"{method}_ab_error_{grid}"] = float(other.mean())
            ratio[f"error_{grid}/{method}"] = float(ours.mean() / other.mean())
    print(report("upsampler", metrics, baseline, ratio, ("torch",)))


def colorizer(seed: int) -> Colorizer:
    config = ExperimentConfig()
    torch.manual_seed(seed)
    return Colorizer(config.model, config.bins)


def trained(shards: Shards, steps: int, seed: int, skips: bool) -> Upsampling:
    """What an upsampler has learned by itself, with skip features or without."""
    config = ExperimentConfig().replaced({"data.crop_px": CROP_PX})
    model = colorizer(seed)
    encoder, bins = model.encoder, model.bins
    upsampler = Upsampler(encoder.skip_widths if skips else ())

    def up(ab: Tensor, L: Tensor) -> Tensor:
        return upsampler(ab, L, encoder.skips(L) if skips else ())

    learning = nn.ModuleList([upsampler, encoder.stem[: 2 * len(encoder.skip_widths)]])
    optimizer = adamw(learning, config.optimizer)
    batches = train_batches(shards, config.data, BATCH, seed=seed)
    for step in range(steps):
        batch = next(batches)
        coarse = model.coarsen(batch.ab)
        given = half_quantised(coarse, bins.decode(bins.quantize(coarse)))
        loss = pixel_huber(up(given, batch.L), batch.ab).mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.schedule, steps)
        optimizer.step()
        if (step + 1) % 50 == 0:
            show(f"seed {seed}, step {step + 1} of {steps}: Huber loss {loss.item():.4f}")
    return up


@torch.no_grad()
def measured(
    seeds: list[Upsampling], model: Colorizer, tiles: list[Batch], quantised: bool
) -> np.ndarray:
    """Mean ab distance, (seeds, tiles)."""
    errors = []
    for up in seeds:
        of_seed = []
        for batch in tiles:
            coarse = model.coarsen(batch.ab)
            if quantised:
                coarse = model.bins.decode(model.bins.quantize(coarse))
            distance = (up(coarse, batch.L) - batch.ab).square().sum(dim=1).sqrt()  # (B, H, W)
            of_seed.append(distance.mean(dim=(1, 2)).numpy())
        errors.append(np.concatenate(of_seed))
    return np.stack(errors)


if __name__ == "__main__":
    main()
