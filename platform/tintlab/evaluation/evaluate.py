"""Evaluation of a finished model on a split it never saw: a row per photo, a summary, pictures.

Every photo is painted in each way of `decodes`, with noise that depends on the evaluation's seed
and the photo's id only: the figures are the same whatever the batch size, the number of workers and
the order of the photos, see `measuring`. The truth is the photo as the shards hold it, which is
within 1/255 of the decoded file.
"""

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from tintlab.config import ExperimentConfig
from tintlab.data.batches import Batch
from tintlab.data.photos import scene_of
from tintlab.data.shards import Shards
from tintlab.data.storage import resolve
from tintlab.evaluation.decodes import lpips_name, photo_seed
from tintlab.evaluation.fid import fid, fid_weights
from tintlab.evaluation.ladder import LEVELS, Ladder, evaluating, ladder_of, no_photos
from tintlab.evaluation.measuring import Done, MeasuredPhoto, Measurer, Task, tasks_of
from tintlab.evaluation.picture import (
    Triple,
    grey_from,
    rgb_from,
    save_png,
    strip,
    write_whole,
)
from tintlab.evaluation.report import html
from tintlab.evaluation.summary import ImageRow, summary_of
from tintlab.model.colorizer import Colorizer
from tintlab.model.sampler import sample

PER_IMAGE_FILE = "per_image.parquet"
SUMMARY_FILE = "summary.json"
PANEL_FILE = "panel.png"
REPORT_FILE = "report.html"
VERSION = 2
"""Of what is measured and how: another one's figures are measured again."""

EXTREMES = 4
"""Best, middling and worst photos that are shown."""
RANKED_BY = "ciede2000"
"""Which photos are best and worst: by the colour difference that a viewer sees."""

Run = Callable[[Measurer, Sequence[Task]], Iterable[Done]]
"""Does tasks and gives what comes of them, in any order."""


class Painting(NamedTuple):
    """One photo as a colorizer is given it, as it painted it, and as it was; all the same size."""

    id: str
    grey: UInt8[np.ndarray, "_ _ 3"]
    coloured: UInt8[np.ndarray, "_ _ 3"]
    truth: UInt8[np.ndarray, "_ _ 3"]


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
    extremes: dict[str, list[tuple[ImageRow, Triple]]]
    """`best`, `median`, `worst` -> photos by RANKED_BY, with their pictures."""


def one_by_one(measurer: Measurer, tasks: Sequence[Task]) -> Iterator[Done]:
    """Every task, in this process."""
    for task in tasks:
        yield measurer(task)


def evaluate(
    model: Colorizer,
    config: ExperimentConfig,
    shards: Shards,
    split: str = "test",
    run: Run = one_by_one,
    shown: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure a model on every photo of a split; writes nothing.

    Args: run: does the work, here or on a cluster. shown: told how many photos are measured.
    Raises: EnvironmentFault: the split holds no photo. ConfigError: there is no such split, or a
        photo is smaller than evaluation.crop_px.
    """
    settings = config.evaluation
    tasks = tasks_of(shards, split, settings)
    if not any(task.kind == "measure" for task in tasks):
        raise no_photos(split)
    measurer = Measurer(model, shards, settings)
    counts = np.zeros((LEVELS, model.bins.channels, model.bins.count), np.int64)
    photos: list[MeasuredPhoto] = []
    for result in run(measurer, tasks):
        if isinstance(result, list):
            photos += result
        else:
            counts = counts + result
        if shown is not None:
            shown(len(photos))
    photos.sort(key=lambda photo: photo.index)
    rungs = ladder_of(measurer.model, [photo.priced for photo in photos], counts)
    sources = photo_sources(shards)
    lpips = lpips_name(settings)
    rows = [_row(photo, sources[photo.priced.id], lpips) for photo in photos]
    summary = {
        "split": split,
        "images": len(rows),
        "fingerprint": shards.manifest.fingerprint,
        **summary_of(rows, rungs, settings),
    }
    if fid_weights() is not None:
        summary["fid_torch_fidelity"] = fid(
            lambda number: measurer.pictures([photos[number]], split)[0][1],
            lambda number: measurer.pictures([photos[number]], split)[0][2],
            len(photos),
        )
    first, shown_of = range(min(settings.panel_images, len(photos))), extremes(rows)
    wanted = sorted({*first, *(at for chosen in shown_of.values() for at in chosen)})
    triples = measurer.pictures([photos[at] for at in wanted], split)
    picture = dict(zip(wanted, triples, strict=True))
    return Evaluation(
        split=split,
        fingerprint=shards.manifest.fingerprint,
        per_image=rows,
        summary=summary,
        ladder=rungs,
        panel=strip([picture[at] for at in first]),
        extremes={
            name: [(rows[at], picture[at]) for at in chosen] for name, chosen in shown_of.items()
        },
    )


def extremes(rows: Sequence[ImageRow]) -> dict[str, list[int]]:
    """`best`, `median` and `worst` -> which rows; up to EXTREMES of each, none twice in one."""
    figures = [getattr(row.decodes["sampled"], RANKED_BY) for row in rows]
    order = sorted(range(len(rows)), key=lambda at: (figures[at], rows[at].id))
    count = min(EXTREMES, len(order))
    middle = (len(order) - count) // 2
    return {
        "best": order[:count],
        "median": order[middle : middle + count],
        "worst": order[::-1][:count],
    }


def _row(photo: MeasuredPhoto, source: str, lpips: str | None) -> ImageRow:
    return ImageRow(
        id=photo.priced.id,
        source=source,
        scene=scene_of(source, photo.priced.id),
        bits_per_dim=photo.priced.autoregressive,
        parallel_bits_per_dim=photo.priced.parallel,
        diversity_ab=photo.diversity_ab,
        truth=photo.truth,
        decodes=photo.decodes,
        variants=photo.variants,
        lpips=lpips,
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


def save_evaluation(evaluation: Evaluation, folder: Path, title: str = "Evaluation") -> None:
    """Write the table, pictures, the report and, last, summary.json; each whole or not at all.

    A folder without summary.json is not an evaluation: an older one is taken away first, so that
    it never stands beside rows of another model.
    Args: title: of the report, such as the model's name.
    """
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row.columns() for row in evaluation.per_image]), table)
    write_whole(folder / PER_IMAGE_FILE, table.getvalue())
    save_png(folder / PANEL_FILE, evaluation.panel)
    for name, photos in evaluation.extremes.items():
        save_png(folder / f"{name}.png", strip([triple for _, triple in photos]))
    page = html(title, evaluation.summary, evaluation.extremes, RANKED_BY)
    write_whole(folder / REPORT_FILE, page.encode())
    summary = json.dumps(json_ready(evaluation.summary), indent=2, allow_nan=False) + "\n"
    write_whole(folder / SUMMARY_FILE, summary.encode())


def json_ready(value: Any) -> Any:
    """JSON has no inf and no nan; both become null, which no reader takes for a number."""
    if isinstance(value, dict):
        return {key: json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [json_ready(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
