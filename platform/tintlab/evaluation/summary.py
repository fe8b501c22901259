"""What an evaluation says of a whole split: means with intervals, under the ids of `definitions`.

Intervals are over scenes, see `intervals`: a split of twenty photos with ten tiles each knows no
more than twenty photos.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tintlab.evaluation.decodes import DECODES, Measures, lpips_name, summarised
from tintlab.evaluation.definitions import METRICS
from tintlab.evaluation.intervals import Interval, interval, ratio_interval
from tintlab.evaluation.ladder import Ladder
from tintlab.settings import EvaluationConfig

Columns = Mapping[str, str | float | None]
"""A row of the per-image table."""


@dataclass(frozen=True)
class ImageRow:
    """What is measured on one photo."""

    id: str
    source: str
    """Where the photo came from, as `prepare` was told."""
    scene: str
    """What it shows: photos of one scene are alike, see `intervals`."""
    bits_per_dim: float
    parallel_bits_per_dim: float
    diversity_ab: float | None
    """Between the samples of the photo; None where it was sampled once."""
    truth: Measures
    """The true photo against itself: how colourful it is."""
    decodes: dict[str, Measures]
    """One for each of DECODES."""
    variants: dict[str, float]
    """Other systems' metrics of the sample, by id."""
    lpips: str | None
    """Id of the LPIPS that is measured, if one is."""

    def columns(self) -> dict[str, str | float | None]:
        """The row as a flat table has it: the sample's measures without a prefix, `greedy_ssim`."""
        flat: dict[str, str | float | None] = {
            "id": self.id,
            "source": self.source,
            "scene": self.scene,
            "bits_per_dim": self.bits_per_dim,
            "parallel_bits_per_dim": self.parallel_bits_per_dim,
            "diversity_ab": self.diversity_ab,
            "truth_colorfulness": self.truth.colorfulness,
            "truth_colorfulness_absolute": self.truth.colorfulness_absolute,
        }
        for decode, measures in self.decodes.items():
            prefix = "" if decode == "sampled" else f"{decode}_"
            figures = asdict(measures)
            distance = figures.pop("lpips")
            if self.lpips is not None:
                figures[self.lpips] = distance
            flat |= {prefix + name: value for name, value in figures.items()}
        for name in ("colorfulness", "colorfulness_absolute"):
            of_sample, true = (getattr(of, name) for of in (self.decodes["sampled"], self.truth))
            flat[f"{name}_gap"] = abs(of_sample - true)
        return flat | self.variants


def summary_of(
    rows: Sequence[ImageRow], rungs: Ladder, settings: EvaluationConfig
) -> dict[str, Any]:
    """The figures of a split, as they are in summary.json."""
    truth = [row.truth for row in rows]
    of_decodes = {name: summarised([row.decodes[name] for row in rows], truth) for name in DECODES}
    own = lpips_name(settings)
    for figures in of_decodes.values():  # under the name of its net, and only if there is one
        distance = figures.pop("lpips")
        if own is not None:
            figures[own] = distance
    table = [row.columns() for row in rows]
    infinite = sum(math.isinf(row.decodes["sampled"].psnr_db) for row in rows)
    return {
        "bits_per_dim": rungs.means(),
        "calibration_error": rungs.calibration_error,
        **of_decodes["sampled"],
        "psnr_db_infinite_images": infinite,
        "truth_colorfulness": float(np.mean([one.colorfulness for one in truth])),
        "diversity_ab": _mean(table, "diversity_ab"),
        "decodes": of_decodes,
        "variants": {
            name: _mean(table, name)
            for name, metric in METRICS.items()
            if metric.variant and name in table[0]
        },
        "scenes": len({row["scene"] for row in table}),
        "intervals": {name: [of.low, of.high] for name, of in intervals_of(table).items()},
        "crop_px": settings.crop_px,
        "temperature": settings.temperature,
        "samples_per_photo": settings.samples_per_photo,
        "seed": settings.seed,
    }


def intervals_of(table: Sequence[Columns]) -> dict[str, Interval]:
    """Id -> mean of the photos with its 95 % interval, for every id that photos have.

    Infinite values are left out, as they are of the mean: a photo that is exactly right has no
    finite PSNR.
    """
    scenes = [str(row["scene"]) for row in table]
    found = {}
    for name, metric in METRICS.items():
        if metric.of_photo and name in table[0]:
            finite = [at for at, row in enumerate(table) if _finite(row[name])]
            if finite:
                values = np.array([table[at][name] for at in finite], np.float64)
                found[name] = interval(values, [scenes[at] for at in finite])
    for name in ("colorfulness", "colorfulness_absolute"):
        painted, true = (
            np.array([row[prefix + name] for row in table], np.float64) for prefix in ("", "truth_")
        )
        if true.sum() > 0:
            found[f"{name}_ratio"] = ratio_interval(painted, true, scenes)
    return found


def _mean(table: Sequence[Columns], name: str) -> float | None:
    values = [row[name] for row in table if _finite(row[name])]
    return float(np.mean(np.array(values, np.float64))) if values else None


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
