"""The autoregressive colorizer against a parallel one, at equal parameters and steps.

    python benchmarks/parallel_colorizer.py [--quick]

The parallel colorizer is that of Zhang et al. 2016, Colorful Image Colorization, made of our own
parts: a residual CNN reads L, and a head gives every position's bins by themselves, trained by
cross-entropy alone. It is our gray encoder and parallel head, deepened with encoder blocks until it
has as many parameters as encoder, decoder and heads of the autoregressive one together. Same bins,
same crops in the same order, same optimizer, schedule, moving average and steps. Scored in bits per
dimension on centre crops of the test split, which are other places of the photographs trained on;
`gain` is how many fewer bits the autoregressive one needs on the same tiles, with its 95 %
bootstrap interval over seeds, photographs and their tiles.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from packaged_tiles import interval, packaged_shards, photographs
from side_by_side import report, show
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from tintlab.config import ExperimentConfig
from tintlab.data.batches import Batch, eval_batches, train_batches
from tintlab.data.shards import Shards
from tintlab.model.colorizer import Colorizer
from tintlab.model.encoder import DILATIONS, GrayEncoder, ResidualBlock
from tintlab.model.heads import ParallelHead
from tintlab.training.losses import bits_per_dim
from tintlab.training.objective import Objective
from tintlab.training.optimizer import adamw, ema_decay, update_ema
from tintlab.training.schedule import learning_rate

STEPS, QUICK_STEPS = 250, 25
SEEDS = (0, 1, 2)
CONFIG = ExperimentConfig().replaced(
    {"model.depth": 3, "model.upsampler": "bilinear", "model.encoder_attention_blocks": 1}
)


class ParallelColorizer(nn.Module):
    """Every position's bins from L alone."""

    def __init__(self, config: ExperimentConfig, parameters: int, like: Colorizer) -> None:
        super().__init__()
        width = config.model.width
        self.encoder = GrayEncoder(config.model)
        self.head = ParallelHead(width, like.bins.channels, like.bins.count)
        while True:
            dilation = DILATIONS[len(self.encoder.blocks) % len(DILATIONS)]
            block = ResidualBlock(width, dilation, config.model.encoder_norm, config.model.dropout)
            if size(self) + size(block) / 2 > parameters:  # nearer without it
                break
            self.encoder.blocks.append(block)
            self.encoder.attention_after.append(0)

    def forward(self, L: Tensor) -> Tensor:
        return self.head(self.encoder(L))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="train for a tenth of the steps")
    steps = QUICK_STEPS if parser.parse_args().quick else STEPS
    bits, other = [], []
    with packaged_shards() as shards:
        batches = eval_batches(shards, "test", CONFIG.evaluation.crop_px, 16)
        cut_from = photographs(shards, [photo for batch in batches for photo in batch.ids])
        for seed in SEEDS:
            ours, theirs = both(shards, seed, steps)
            bits.append(scored(lambda batch, model=ours: autoregressive_bits(model, batch), shards))
            other.append(
                scored(lambda batch, pair=(ours, theirs): parallel_bits(*pair, batch), shards)
            )
    gains = np.stack(other) - np.stack(bits)
    metrics = {
        "bits_per_dim": float(np.mean(bits)),
        "gain": interval(gains, cut_from),
        "gain_of_seeds": [round(float(gain.mean()), 4) for gain in gains],
        "parameters": size(ours),
        "tiles": gains.shape[1],
        "steps": steps,
    }
    baseline = {"bits_per_dim": float(np.mean(other)), "parameters": size(theirs)}
    ratio = {"bits_per_dim": float(np.mean(bits) / np.mean(other))}
    print(report("parallel_colorizer", metrics, baseline, ratio, ("torch",)))


def both(shards: Shards, seed: int, steps: int) -> tuple[Colorizer, nn.Module]:
    """An autoregressive and a parallel colorizer, trained alike."""
    torch.manual_seed(seed)
    model = Colorizer(CONFIG.model, CONFIG.bins)
    parallel = ParallelColorizer(CONFIG, size(model), like=model)
    objective = Objective(model, CONFIG, shards.manifest.ab)
    ours = trained(model, lambda batch: objective(batch.L, batch.ab)[0], shards, steps, seed)
    theirs = trained(
        parallel, lambda batch: parallel_bits(model, parallel, batch).mean(), shards, steps, seed
    )
    assert isinstance(ours, Colorizer)
    return ours, theirs


def autoregressive_bits(model: Colorizer, batch: Batch) -> Tensor:
    """Bits per dimension of each photo under the decoder."""
    tokens = model.tokens(batch.ab)
    return bits_per_dim(model(batch.L, tokens).autoregressive, tokens)


def parallel_bits(like: Colorizer, network: nn.Module, batch: Batch) -> Tensor:
    """The same tokens under a network that reads the grey photo alone."""
    return bits_per_dim(network(batch.L), like.tokens(batch.ab))


def size(module: nn.Module) -> int:
    """Numbers that are learned; those of a moving average count as well."""
    return sum(p.numel() for p in module.parameters())


def trained(
    module: nn.Module, loss_of: Callable[[Batch], Tensor], shards: Shards, steps: int, seed: int
) -> nn.Module:
    """The moving average of a module's weights after so many steps, as training would leave it."""
    average = deepcopy(module).eval().requires_grad_(False)
    optimizer = adamw(module, CONFIG.optimizer)
    batches = train_batches(shards, CONFIG.data, CONFIG.training.batch_size, seed)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(next(batches))
        loss.backward()
        clip_grad_norm_(module.parameters(), CONFIG.optimizer.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, CONFIG.schedule, steps)
        optimizer.step()
        update_ema(average, module, ema_decay(step, CONFIG.optimizer))
        if (step + 1) % 25 == 0:
            show(f"{type(module).__name__}: step {step + 1} of {steps}: loss {loss.item():.4f}")
    return average


@torch.no_grad()
def scored(bits_of: Callable[[Batch], Tensor], shards: Shards) -> np.ndarray:
    """Bits per dimension of each photo of the test split."""
    settings = CONFIG.evaluation
    batches = eval_batches(shards, "test", settings.crop_px, settings.batch_size)
    return torch.cat([bits_of(batch) for batch in batches]).numpy()


if __name__ == "__main__":
    main()
