"""The card of a model: what a person should know before using it, in Markdown.

Written from what is recorded, never by hand: a figure has the id it has everywhere, and its
interval. Source of the sections: Mitchell et al. 2019, Model Cards
for Model Reporting.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintlab.config import ExperimentConfig
from tintlab.evaluation.definitions import METRICS
from tintlab.evaluation.evaluate import SUMMARY_FILE
from tintlab.evaluation.report import figure_rows

USE = """\
## Intended use

Giving plausible colours to grey photographs like those it was trained on, for looking at: the
colours are invented. Draw several samples to see how unsure it is.

## Limits

- Not evidence of what colour anything had. Do not use it where colours decide something: medicine,
  law, identification, reporting.
- Subjects that are rare in the training photos get the colours of those that are common.
- The figures hold for photos like the test photos, at the size they were scored at; of other photos
  they say little."""


@dataclass(frozen=True)
class Origin:
    """Where a model came from; None where it is not known."""

    run_id: str
    sweep: str | None
    git_revision: str | None
    data: str | None
    """Fingerprint of the data set that was trained on."""
    photos: Mapping[str, int] | None
    """Of that data set, by split."""


def model_card(
    sha256: str, weight_bytes: int, config: ExperimentConfig, origin: Origin, evaluation: Path
) -> str:
    """The card of the model with this manifest hash.

    Args: evaluation: folder of its evaluation on the test split.
    """
    return "\n\n".join(
        [
            "# Colorizer\n\nAn autoregressive colorizer of grey photographs, made with tintlab.",
            _table(
                "Model",
                {
                    "manifest sha256": sha256,
                    "weights": f"{weight_bytes / 1e6:.2f} MB (safetensors)",
                    "shape": f"depth {config.model.depth}, width {config.model.width}, "
                    f"one chroma position for {config.model.chroma_stride} x "
                    f"{config.model.chroma_stride} pixels",
                    "run": origin.run_id,
                    "sweep": origin.sweep or "none",
                    "git revision": origin.git_revision or "not known",
                },
            ),
            _table(
                "Training",
                {
                    "data fingerprint": origin.data or "not known",
                    "photos": ", ".join(
                        f"{n} {split}" for split, n in (origin.photos or {}).items()
                    )
                    or "not known",
                    "crops": f"{config.data.crop_px} px",
                    "steps": f"{config.training.steps} of {config.training.batch_size} photos",
                    "schedule": f"{config.schedule.kind}, peak {config.schedule.peak_lr:g}",
                    "seed": str(config.training.seed),
                },
            ),
            _figures(evaluation),
            USE,
            "Written by tintlab when the model was registered. It is not part of the model: the "
            "manifest's hashes cover the weights and the config.",
        ]
    )


def _table(title: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | `{value}` |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines])


def _figures(evaluation: Path) -> str:
    summary: dict[str, Any] = json.loads((evaluation / SUMMARY_FILE).read_text())
    lines = [
        f"| `{name}` | {value} | {ends} | {METRICS[name].unit}, {METRICS[name].better} |"
        for name, value, ends in figure_rows(summary)
    ]
    return "\n".join(
        [
            "## Figures\n",
            f"On {summary['images']} photos ({summary['scenes']} scenes) of the {summary['split']} "
            f"split of data `{summary['fingerprint']}`, in their middle {summary['crop_px']} px, "
            f"sampled at temperature {summary['temperature']:g}. The intervals are 95 % and over "
            "scenes. Grey scores well on PSNR, SSIM and CIEDE2000: read them beside the others.\n",
            "| id | mean | interval | unit, which way is better |",
            "|---|---|---|---|",
            *lines,
        ]
    )
