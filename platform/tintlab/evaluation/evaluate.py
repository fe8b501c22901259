"""Evaluation of a finished model on a split it never saw: a row per photo, a summary, a picture.

Every photo is painted once, with noise that depends on the evaluation's seed and the photo's id
only: the figures are the same whatever the batch size and the order of the photos. The truth is
the photo as the shards hold it, which is within 1/255 of the decoded file.
"""

import hashlib
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

from tintlab.config import EvaluationConfig, ExperimentConfig
from tintlab.data.batches import Batch, eval_batches
from tintlab.data.shards import Shards
from tintlab.data.storage import resolve
from tintlab.evaluation.ladder import Ladder, evaluating, ladder
from tintlab.evaluation.metrics import (
    colorfulness,
    colorfulness_ratio,
    mean_psnr_db,
    psnr_db,
    ssim,
)
from tintlab.evaluation.picture import grey_from, rgb_from, save_png, strip, write_whole
from tintlab.model.colorizer import Colorizer
from tintlab.model.sampler import sample

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
    psnr_db: float
    """inf where the painted photo equals the true one."""
    ssim: float
    colorfulness: float
    truth_colorfulness: float


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
    rungs = ladder(model, shards, split, settings)
    bits = dict(zip(rungs.ids, rungs.per_image["autoregressive"].tolist(), strict=True))
    parallel = dict(zip(rungs.ids, rungs.per_image["parallel"].tolist(), strict=True))
    sources = photo_sources(shards)
    rows: list[ImageRow] = []
    shown: list[Painting] = []
    for batch in eval_batches(shards, split, settings.crop_px, settings.batch_size):
        for painting in paint(model, batch, settings.temperature, settings.seed):
            rows.append(
                ImageRow(
                    id=painting.id,
                    source=sources[painting.id],
                    bits_per_dim=bits[painting.id],
                    parallel_bits_per_dim=parallel[painting.id],
                    psnr_db=psnr_db(painting.coloured, painting.truth),
                    ssim=ssim(painting.coloured, painting.truth),
                    colorfulness=colorfulness(painting.coloured),
                    truth_colorfulness=colorfulness(painting.truth),
                )
            )
            if len(shown) < settings.panel_images:
                shown.append(painting)
    return Evaluation(
        split=split,
        fingerprint=shards.manifest.fingerprint,
        per_image=rows,
        summary=_summary(rows, rungs, settings, split, shards.manifest.fingerprint),
        ladder=rungs,
        panel=strip([(p.grey, p.coloured, p.truth) for p in shown]),
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


def photo_seed(seed: int, photo: str) -> int:
    """The seed of one photo's noise, in [0, 2^63): its own, whatever else is painted with it."""
    digest = hashlib.sha256(f"{seed}:{photo}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _summary(
    rows: list[ImageRow], rungs: Ladder, settings: EvaluationConfig, split: str, fingerprint: str
) -> dict[str, Any]:
    of_psnr = [row.psnr_db for row in rows]
    painted = [row.colorfulness for row in rows]
    true = [row.truth_colorfulness for row in rows]
    return {
        "split": split,
        "images": len(rows),
        "fingerprint": fingerprint,
        "bits_per_dim": rungs.means(),
        "psnr_db": mean_psnr_db(of_psnr),
        "psnr_db_infinite_images": sum(math.isinf(value) for value in of_psnr),
        "ssim": float(np.mean([row.ssim for row in rows])),
        "colorfulness": float(np.mean(painted)),
        "truth_colorfulness": float(np.mean(true)),
        "colorfulness_ratio": colorfulness_ratio(painted, true),
        "crop_px": settings.crop_px,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write per_image.parquet, panel.png and, last, summary.json; each whole or not at all.

    A folder without summary.json is not an evaluation: an older one is taken away first, so that
    it never stands beside rows of another model.
    """
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in evaluation.per_image]), table)
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
