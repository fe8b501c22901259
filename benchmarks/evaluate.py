"""Evaluation's speed against the sum of its parts.

    python benchmarks/evaluate.py [--quick]

A colorizer of the default size (untrained: the weights' values cost nothing) on the test split of
the packaged tiles. Candidates, in turns, each over the same batches of photos:

    evaluation    `evaluate` and `save_evaluation`: figures with intervals, pictures, the report
    sampling      every decode of each photo, joined to its lightness: `decoded`
    likelihood    one teacher-forced forward and its prices: `priced`
    metrics       every measure of every picture, which are ready: `measured` and `variants`

The parts compute in float64 as evaluation does, so that its digits depend on nothing else; the sum
of the same parts in float32 is `baseline.float32_images_per_s`. What else evaluation does: read the
shards, the train split's histogram, intervals, pictures and files. `ratio.images_per_s` is its rate
over that of the parts' sum; wanted is at least 0.85.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from packaged_tiles import packaged_shards
from side_by_side import ROUNDS, interleaved, report

from tintlab.config import ExperimentConfig
from tintlab.data.batches import eval_batches
from tintlab.data.shards import Shards
from tintlab.evaluation.decodes import decoded, make_lpips, measured, variants
from tintlab.evaluation.evaluate import evaluate, save_evaluation
from tintlab.evaluation.ladder import evaluating, priced
from tintlab.model.colorizer import Colorizer

PARTS = ("sampling", "likelihood", "metrics")
QUICK = {"model.depth": 1, "evaluation.crop_px": 32}
SPREAD = 0.05
"""Of the weights: those of a fresh model have heads of zeros, which draw no real colours."""


def candidates(
    model: Colorizer, config: ExperimentConfig, shards: Shards
) -> dict[str, Callable[[], dict[str, float]]]:
    """Name -> what takes its time."""
    settings = config.evaluation
    batches = [*eval_batches(shards, "test", settings.crop_px, settings.batch_size)]
    exact = copy.deepcopy(model).double()
    ready = [photo for batch in batches for photo in decoded(exact, batch, settings)]
    perceptual = make_lpips(settings)

    def whole() -> None:
        with TemporaryDirectory(prefix="tintlab-benchmark-") as folder:
            save_evaluation(evaluate(model, config, shards), Path(folder))

    def sampling(model: Colorizer) -> None:
        for batch in batches:
            for _ in decoded(model, batch, settings):
                pass

    def likelihood(model: Colorizer) -> None:
        with evaluating(model):
            for batch in batches:
                priced(model, batch)

    def metrics() -> None:
        for photo in ready:
            measured(photo.truth, photo.truth, perceptual)
            for picture in photo.pictures.values():
                measured(picture, photo.truth, perceptual)
            variants(photo.pictures["sampled"], photo.truth)

    parts = {
        "evaluation": whole,
        "sampling": lambda: sampling(exact),
        "likelihood": lambda: likelihood(exact),
        "metrics": metrics,
        "sampling_float32": lambda: sampling(model),
        "likelihood_float32": lambda: likelihood(model),
    }
    return {name: timed(part) for name, part in parts.items()}


def timed(part: Callable[[], None]) -> Callable[[], dict[str, float]]:
    """The part as `interleaved` runs it."""

    def measure() -> dict[str, float]:
        start_s = time.perf_counter()
        part()
        return {"seconds": time.perf_counter() - start_s}

    return measure


def main(quick: bool) -> int:
    """Measure, and print the line."""
    config = ExperimentConfig().replaced(QUICK if quick else {})
    torch.manual_seed(0)
    model = Colorizer(config.model, config.bins)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=SPREAD)
    with packaged_shards() as shards:
        photos = len(shards.used("test"))
        found = interleaved(candidates(model.eval(), config, shards), 1 if quick else ROUNDS)
    seconds = {name: figures["seconds"] for name, figures in found.items()}
    whole = seconds.pop("evaluation")
    parts = sum(seconds[name] for name in PARTS)
    float32 = seconds["sampling_float32"] + seconds["likelihood_float32"] + seconds["metrics"]
    metrics = {"images_per_s": photos / whole, "photos": photos, "seconds": whole}
    baseline = {
        "images_per_s": photos / parts,
        "float32_images_per_s": photos / float32,
        **{f"{name}_s": part for name, part in seconds.items()},
    }
    ratio = {"images_per_s": parts / whole}
    print(report("evaluate", metrics, baseline, ratio, ("torch", "scikit-image")))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, once")
    sys.exit(main(parser.parse_args().quick))
