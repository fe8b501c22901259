"""What the sampling temperature does to colours: a table of figures and a picture.

    python benchmarks/temperature.py MODEL_FOLDER SHARDS OUT.png [--photos 6] [--split test]

Rows of the picture are photos; columns are the grey photo, samples at each temperature with the
same noise, the mean decode (the parallel head's) and the truth. Figures are over all photos of the
split: colourfulness over the truth's, and the PSNR beside it, which rewards muted colours.
"""

import argparse
from pathlib import Path

import numpy as np
from side_by_side import report, show

from tintlab.data.batches import Batch, eval_batches
from tintlab.data.shards import open_shards
from tintlab.errors import TintlabError
from tintlab.evaluation.decodes import Measures, measured, photo_seed, summarised
from tintlab.evaluation.ladder import evaluating, no_photos
from tintlab.evaluation.picture import grey_from, rgb_from, save_png, strip
from tintlab.model.artifact import load_model
from tintlab.model.colorizer import Colorizer
from tintlab.model.sampler import sample

TEMPERATURES = (0.0, 0.5, 0.8, 1.0, 1.2)
MEAN, TRUTH = "mean", "truth"


def column(temperature: float) -> str:
    return f"T={temperature:g}"


def pictures(model: Colorizer, batch: Batch, seed: int) -> list[dict[str, np.ndarray]]:
    """Every column but the grey one for each photo of a batch."""
    L = batch.L
    seeds = [photo_seed(seed, photo) for photo in batch.ids]
    with evaluating(model):
        coarse = {
            column(t): model.bins.decode(sample(model, L, seeds=seeds, temperature=t))
            for t in TEMPERATURES
        }
        logits = model.parallel_logits(model.encode(L))
        coarse[MEAN] = model.bins.soft_decode(logits, temperature=1.0)
        full = {name: model.upsample(plane, L).numpy() for name, plane in coarse.items()}
    full[TRUTH] = batch.ab.numpy()
    return [
        {name: rgb_from(L[i, 0].numpy(), planes[i]) for name, planes in full.items()}
        for i in range(len(batch.ids))
    ]


def figures(of_columns: dict[str, list[Measures]]) -> dict[str, dict[str, float | None]]:
    """Column -> what it is like beside the truth."""
    names = ("colorfulness_ratio", "colorfulness_gap", "psnr_db", "ciede2000")
    return {
        name: {key: value for key, value in found.items() if key in names}
        for name, found in (
            (name, summarised(measures, of_columns[TRUTH]))
            for name, measures in of_columns.items()
            if name != TRUTH
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=int, default=6, help="rows of the picture")
    parser.add_argument("--split", default="test")
    given = parser.parse_args()

    model, config = load_model(given.model)
    settings = config.evaluation
    shards = open_shards(given.shards)
    rows: list[list[np.ndarray]] = []
    of_columns: dict[str, list[Measures]] = {}
    for batch in eval_batches(shards, given.split, settings.crop_px, settings.batch_size):
        for i, found in enumerate(pictures(model, batch, settings.seed)):
            for name, picture in found.items():
                of_columns.setdefault(name, []).append(measured(picture, found[TRUTH], None))
            if len(rows) < given.photos:
                rows.append([grey_from(batch.L[i, 0].numpy()), *found.values()])
    if not rows:
        raise no_photos(given.split)
    save_png(given.out, strip(rows))

    found = figures(of_columns)
    for name, values in found.items():
        show(f"{name:6} " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    own = column(1.0)
    ratio = {
        "colorfulness_of_samples": found[own]["colorfulness_ratio"],
        "colorfulness_of_the_mean": found[MEAN]["colorfulness_ratio"],
    }
    metrics = {**found, "photos": len(of_columns[TRUTH]), "columns": ["grey", *of_columns]}
    print(report("temperature", metrics, {}, ratio, ("torch",)))


if __name__ == "__main__":
    try:
        main()
    except TintlabError as error:
        show(f"temperature: {error}")
        raise SystemExit(error.exit_code) from None
