"""The report of an evaluation for people: figures, what they mean, and pictures, in one file."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tintlab.evaluation.definitions import METRICS, Metric
from tintlab.evaluation.picture import Triple, strip
from tintlab.evaluation.summary import ImageRow
from tintlab.html_page import figure, grid, page, text

FIGURES = ("id", "value", "95 % interval")

_TITLES = {
    "best": "Best",
    "median": "In the middle",
    "worst": "Worst",
}
_GREY_IS_SAFE = (
    "PSNR, SSIM and CIEDE2000 punish every plausible colour that is not the true one: read them "
    "beside the colourfulness ratio, which is 1 where samples are as colourful as the truth, and "
    "bits per dimension."
)


def html(
    title: str,
    summary: Mapping[str, Any],
    extremes: Mapping[str, Sequence[tuple[ImageRow, Triple]]],
    ranked_by: str,
) -> str:
    """The page.

    Args: extremes: `best`, `median`, `worst` -> photos with their pictures, by the metric
        `ranked_by`.
    """
    body = [
        f"<h1>{text(title)}</h1>",
        f"<p>{summary['images']:,} photos of {summary['scenes']:,} scenes: split "
        f"{text(summary['split'])} of data set <code>{text(summary['fingerprint'])}</code>; "
        f"centre crops of {summary['crop_px']} px, temperature {summary['temperature']:g}, "
        f"{summary['samples_per_photo']} samples of each, seed {summary['seed']}.</p>",
        "<h2>Figures</h2>",
        grid(FIGURES, figure_rows(summary)),
        f"<p>{_GREY_IS_SAFE}</p>",
        "<h2>Likelihood, from guessing to the model</h2>",
        grid(
            ["rung", "bits per dimension"],
            [[rung, f"{bits:.4f}"] for rung, bits in summary["bits_per_dim"].items()],
        ),
        "<h2>Ways to paint</h2>",
        _decodes(summary["decodes"]),
        "<h2>As other systems measure</h2>",
        grid(FIGURES, figure_rows(summary, variant=True)),
        "<h2>Photos: grey, sampled, true</h2>",
    ]
    for name, photos in extremes.items():
        body += [f"<h3>{_TITLES[name]} by {text(ranked_by)}</h3>"]
        body += [_photo(row, triple, ranked_by) for row, triple in photos]
    body += ["<h2>What the ids mean</h2>", _meanings()]
    return page(title, body)


def figure_rows(summary: Mapping[str, Any], variant: bool = False) -> list[list[str]]:
    """A summary's figures as a table has them: id, value, interval.

    Args: variant: those of other systems instead of the project's own.
    """
    return [
        [metric.id, f"{value:.4f}", _ends(summary, metric.id)]
        for metric in METRICS.values()
        if metric.variant == variant and (value := value_of(summary, metric)) is not None
    ]


def value_of(summary: Mapping[str, Any], metric: Metric) -> float | None:
    """A figure of a summary by its id; None where it was not measured."""
    if metric.id in ("bits_per_dim", "parallel_bits_per_dim"):
        rung = "autoregressive" if metric.id == "bits_per_dim" else "parallel"
        return float(summary["bits_per_dim"][rung])
    if metric.id == "calibration_error":
        errors = summary["calibration_error"]["autoregressive"].values()
        return sum(errors) / len(errors)
    found = summary["variants"].get(metric.id) if metric.variant else summary.get(metric.id)
    return None if found is None else float(found)


def _ends(summary: Mapping[str, Any], name: str) -> str:
    ends = summary["intervals"].get(name)
    if ends is None:
        return ""
    low, high = ("unknown" if end is None or math.isinf(end) else f"{end:.4f}" for end in ends)
    return f"{low} to {high}"


def _decodes(decodes: Mapping[str, Mapping[str, float | None]]) -> str:
    names = [name for name in next(iter(decodes.values())) if name in METRICS]
    rows = [
        [decode, *("" if (v := figures[name]) is None else f"{v:.3f}" for name in names)]
        for decode, figures in decodes.items()
    ]
    return grid(["picture", *names], rows)


def _photo(row: ImageRow, triple: Triple, ranked_by: str) -> str:
    columns = row.columns()
    caption = (
        f"{text(row.id)}<br>{text(ranked_by)} {columns[ranked_by]:.2f}, "
        f"{row.bits_per_dim:.3f} bits per dimension"
    )
    return figure(png_uri(strip([triple])), caption, small=True)


def png_uri(rgb: UInt8[np.ndarray, "H W 3"]) -> str:
    """A picture, every pixel as it is, as a URI that holds it."""
    encoded = io.BytesIO()
    Image.fromarray(rgb).save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def _meanings() -> str:
    return grid(
        ["id", "unit", "better", "colours", "pixels", "compared with", "source"],
        [
            [m.id, m.unit, m.better, m.space, m.crop, m.reference, m.source]
            for m in METRICS.values()
        ],
    )
