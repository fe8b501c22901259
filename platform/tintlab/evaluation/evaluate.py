"""Evaluation of a finished model on a split it never saw: a row per photo, a summary, a picture.

Every photo is painted in each way of `decodes`, with noise that depends on the evaluation's seed
and the photo's id only: the figures are the same whatever the batch size and the order of the
photos. The truth is the photo as the shards hold it, which is within 1/255 of the decoded file.
"""

import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from tintlab.config import ExperimentConfig
from tintlab.data.batches import Batch, eval_batches
from tintlab.data.shards import Shards
from tintlab.data.storage import resolve
from tintlab.evaluation.decodes import (
    DECODES,
    Measures,
    decoded,
    lpips_name,
    make_lpips,
    measured,
    photo_seed,
    summarised,
)
from tintlab.evaluation.ladder import Ladder, evaluating, ladder
from tintlab.evaluation.picture import Triple, grey_from, rgb_from, save_png, strip, write_whole
from tintlab.model.colorizer import Colorizer
from tintlab.model.sampler import sample
from tintlab.settings import EvaluationConfig

PER_IMAGE_FILE = "per_image.parquet"
SUMMARY_FILE = "summary.json"
PANEL_FILE = "panel.png"


class Painting(NamedTuple):
    """One photo as a colorizer is given it, as it painted it, and as it was; all the same size."""

    id: str
    grey: UInt8[np.ndarray, "_ _ 3"]
    coloured: UInt8[np.ndarray, "_ _ 3"]
    truth: UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True)
class ImageRow:
    """What is measured on one photo."""

    id: str
    source: str
    """Where the photo came from, as `prepare` was told."""
    bits_per_dim: float
    parallel_bits_per_dim: float
    diversity_ab: float | None
    """Between the samples of the photo; None where it was sampled once."""
    truth: Measures
    """The true photo against itself: how colourful it is."""
    decodes: dict[str, Measures]
    """One for each of DECODES."""

    def columns(self) -> dict[str, str | float | None]:
        """The row as a flat table has it: the sample's measures without a prefix, `greedy_ssim`."""
        flat: dict[str, str | float | None] = {
            "id": self.id,
            "source": self.source,
            "bits_per_dim": self.bits_per_dim,
            "parallel_bits_per_dim": self.parallel_bits_per_dim,
            "diversity_ab": self.diversity_ab,
            "truth_colorfulness": self.truth.colorfulness,
            "truth_colorfulness_absolute": self.truth.colorfulness_absolute,
        }
        for decode, measures in self.decodes.items():
            prefix = "" if decode == "sampled" else f"{decode}_"
            figures = asdict(measures)
            if measures.lpips is None:
                del figures["lpips"]
            flat |= {prefix + name: value for name, value in figures.items()}
        return flat


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on one split of one data set."""

    split: str
    fingerprint: str
    """Of the data set: figures of two models compare only if theirs are equal."""
    per_image: list[ImageRow]
    summary: dict[str, Any]
    ladder: Ladder
    panel: UInt8[np.ndarray, "_ _ 3"]
    """grey | coloured | truth, a row for each of the first photos."""


def evaluate(
    model: Colorizer, config: ExperimentConfig, shards: Shards, split: str = "test"
) -> Evaluation:
    """Measure a model on every photo of a split; writes nothing.

    Raises: EnvironmentFault: the split holds no photo.
    """
    settings = config.evaluation
    perceptual = make_lpips(settings)
    rungs = ladder(model, shards, split, settings)
    bits = dict(zip(rungs.ids, rungs.per_image["autoregressive"].tolist(), strict=True))
    parallel = dict(zip(rungs.ids, rungs.per_image["parallel"].tolist(), strict=True))
    sources = photo_sources(shards)
    rows: list[ImageRow] = []
    shown: list[Triple] = []
    for batch in eval_batches(shards, split, settings.crop_px, settings.batch_size):
        for photo in decoded(model, batch, settings):
            rows.append(
                ImageRow(
                    id=photo.id,
                    source=sources[photo.id],
                    bits_per_dim=bits[photo.id],
                    parallel_bits_per_dim=parallel[photo.id],
                    diversity_ab=photo.diversity_ab,
                    truth=measured(photo.truth, photo.truth, perceptual),
                    decodes={
                        name: measured(picture, photo.truth, perceptual)
                        for name, picture in photo.pictures.items()
                    },
                )
            )
            if len(shown) < settings.panel_images:
                shown.append((photo.grey, photo.pictures["sampled"], photo.truth))
    return Evaluation(
        split=split,
        fingerprint=shards.manifest.fingerprint,
        per_image=rows,
        summary=_summary(rows, rungs, settings, split, shards.manifest.fingerprint),
        ladder=rungs,
        panel=strip(shown),
    )


def paint(model: Colorizer, batch: Batch, temperature: float, seed: int) -> list[Painting]:
    """One sample for each photo of a batch, joined to the photo's own lightness."""
    device = next(model.parameters()).device
    L = batch.L.to(device)
    seeds = [photo_seed(seed, photo) for photo in batch.ids]
    with evaluating(model):
        tokens = sample(model, L, temperature=temperature, seeds=seeds)
        ab = model.upsample(model.bins.decode(tokens), L).cpu().numpy()
    paintings = []
    for i, photo in enumerate(batch.ids):
        own = batch.L[i, 0].numpy()
        truth = rgb_from(own, batch.ab[i].numpy())
        paintings.append(Painting(photo, grey_from(own), rgb_from(own, ab[i]), truth))
    return paintings


def photo_sources(shards: Shards) -> dict[str, str]:
    """Where each photo of a data set came from, by id."""
    fs, root = resolve(shards.uri)
    sources: dict[str, str] = {}
    for entry in shards.manifest.shards:
        with fs.open(f"{root}/{entry.name}", "rb") as stream:
            columns = pq.read_table(stream, columns=["id", "source"], use_threads=False)
        sources |= zip(columns["id"].to_pylist(), columns["source"].to_pylist(), strict=True)
    return sources


def _summary(
    rows: list[ImageRow], rungs: Ladder, settings: EvaluationConfig, split: str, fingerprint: str
) -> dict[str, Any]:
    truth = [row.truth for row in rows]
    of_decodes = {name: summarised([row.decodes[name] for row in rows], truth) for name in DECODES}
    own = lpips_name(settings)
    for figures in of_decodes.values():  # under the name of its net, and only if there is one
        distance = figures.pop("lpips")
        if own is not None:
            figures[own] = distance
    infinite = sum(math.isinf(row.decodes["sampled"].psnr_db) for row in rows)
    spread = [row.diversity_ab for row in rows if row.diversity_ab is not None]
    return {
        "split": split,
        "images": len(rows),
        "fingerprint": fingerprint,
        "bits_per_dim": rungs.means(),
        "calibration_error": rungs.calibration_error,
        **of_decodes["sampled"],
        "psnr_db_infinite_images": infinite,
        "truth_colorfulness": float(np.mean([one.colorfulness for one in truth])),
        "diversity_ab": float(np.mean(spread)) if spread else None,
        "decodes": of_decodes,
        "crop_px": settings.crop_px,
        "temperature": settings.temperature,
        "samples_per_photo": settings.samples_per_photo,
        "seed": settings.seed,
    }


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write per_image.parquet, panel.png and, last, summary.json; each whole or not at all.

    A folder without summary.json is not an evaluation: an older one is taken away first, so that
    it never stands beside rows of another model.
    """
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row.columns() for row in evaluation.per_image]), table)
    write_whole(folder / PER_IMAGE_FILE, table.getvalue())
    save_png(folder / PANEL_FILE, evaluation.panel)
    summary = json.dumps(_json_ready(evaluation.summary), indent=2, allow_nan=False) + "\n"
    write_whole(folder / SUMMARY_FILE, summary.encode())


def _json_ready(value: Any) -> Any:
    """JSON has no inf and no nan; both become null, which no reader takes for a number."""
    if isinstance(value, dict):
        return {key: _json_ready(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
