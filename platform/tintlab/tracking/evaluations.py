"""Evaluations that are kept: the same model on the same photos is measured once.

The folder of an evaluation is named by what it is made of, so whoever asks again finds it: the gate
that compares with the champion, and a command that was interrupted.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tintlab.config import Workspace
from tintlab.console import table
from tintlab.data.preparation.pace import Pace
from tintlab.data.shards import open_shards
from tintlab.errors import ConfigError
from tintlab.evaluation.at_scale import on_ray
from tintlab.evaluation.decodes import lpips_name
from tintlab.evaluation.evaluate import (
    PANEL_FILE,
    PER_IMAGE_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    VERSION,
    evaluate,
    one_by_one,
    save_evaluation,
)
from tintlab.evaluation.fid import fid_weights
from tintlab.evaluation.report import FIGURES, figure_rows
from tintlab.model.artifact import load_model
from tintlab.settings import EvaluationConfig
from tintlab.tracking.locks import locked
from tintlab.tracking.models import FoundModel
from tintlab.tracking.store import asking

_FIGURES = (
    "psnr_db",
    "ssim",
    "ciede2000",
    "colorfulness_ratio",
    "colorfulness_gap",
    "colorfulness_difference",
    "colorfulness_absolute_difference",
    "diversity_ab",
)
"""Of the sampled pictures, as they are called in the summary and, after the split, in a run."""


@dataclass(frozen=True)
class KeptEvaluation:
    """Where an evaluation is and what it found."""

    folder: Path
    summary: dict[str, Any]

    @property
    def panel(self) -> Path:
        """grey | coloured | truth of the first photos."""
        return self.folder / PANEL_FILE

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.folder / REPORT_FILE

    def text(self) -> str:
        """The figures for a person."""
        rungs = [
            [f"bits_per_dim of {rung}", f"{bits:.4f}", ""]
            for rung, bits in self.summary["bits_per_dim"].items()
        ]
        return f"{table(FIGURES, [*rungs, *figure_rows(self.summary)])}\n{self.report}"

    def per_image(self) -> pa.Table:
        """A row for each photo, in the order of the split."""
        return pq.read_table(self.folder / PER_IMAGE_FILE)


def evaluate_model(
    workspace: Workspace,
    found: FoundModel,
    shards_uri: str,
    split: str = "test",
    *,
    settings: EvaluationConfig | None = None,
    workers: int = 1,
    show: Callable[[str], None] | None = None,
) -> KeptEvaluation:
    """The evaluation of a model on a split: the kept one, or a new one that is kept and logged.

    Args: settings: how to measure; default the model's own. Models compare only if measured with
        the same; what is not measured by the model's own is not logged to its run. workers: 1
        measures in this process, more on Ray; no figure depends on it. show: gets a line about the
        progress now and then.
    Raises: IntegrityError: the model's files were changed. EnvironmentFault: no data set there, or
        the split is empty. ConfigError: workers is below 1, or more than the cluster has cores.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}; 1 needs no Ray")
    shards = open_shards(shards_uri)
    model, config = load_model(found.folder)
    own = _protocol(config.evaluation)
    if settings is not None:
        config = config.model_copy(update={"evaluation": settings})
    made_of = {
        "version": VERSION,
        "model": hashlib.sha256((found.folder / "manifest.json").read_bytes()).hexdigest(),
        "data": shards.manifest.fingerprint,
        "split": split,
        "settings": _protocol(config.evaluation),
        # Measured once their weights are there.
        "lpips": lpips_name(config.evaluation),
        "fid": fid_weights() is not None,
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(workspace.reports) / "evaluations" / key
    with locked(folder.with_suffix(".lock")):  # two that want it at once measure it once
        if not (folder / SUMMARY_FILE).exists():
            shown = None if show is None else _shown(show, len(shards.used(split)))
            in_actors = partial(on_ray, workspace=workspace, workers=workers)
            run = one_by_one if workers == 1 else in_actors
            measured = evaluate(model, config, shards, split, run, shown)
            save_evaluation(measured, folder, f"Evaluation of {found.label}")
    kept = KeptEvaluation(folder, json.loads((folder / SUMMARY_FILE).read_text()))
    if found.run_id and made_of["settings"] == own:
        _log(workspace, found.run_id, kept, split)
    return kept


def _protocol(settings: EvaluationConfig) -> dict[str, Any]:
    """What figures depend on; the batch size is none of it."""
    return settings.model_dump(exclude={"batch_size"})


def _shown(show: Callable[[str], None], photos: int) -> Callable[[int], None]:
    pace = Pace("evaluate:", "photos", photos)
    return lambda done: show(pace.line(done, done))


def flat_metrics(summary: dict[str, Any], split: str) -> dict[str, float]:
    """The summary's figures under the names they have in a run, `{"test/psnr_db": ...}`.

    Those of another split than test are `evaluated_val/...`: `val/...` are the training's curves.
    """
    split = split if split == "test" else f"evaluated_{split}"
    ladder = {f"{split}/{rung}_bits_per_dim": v for rung, v in summary["bits_per_dim"].items()}
    ladder[f"{split}/bits_per_dim"] = ladder.pop(f"{split}/autoregressive_bits_per_dim")
    figures = ladder | {f"{split}/{name}": summary[name] for name in _FIGURES}
    lpips = {name: value for name, value in summary.items() if name.startswith("lpips_")}
    figures |= {f"{split}/{name}": value for name, value in lpips.items()}
    mean = summary["decodes"]["parallel_mean"]["colorfulness_ratio"]
    figures[f"{split}/parallel_mean_colorfulness_ratio"] = mean
    errors = summary["calibration_error"]["autoregressive"].values()
    figures[f"{split}/calibration_error"] = sum(errors) / len(errors)
    figures |= {f"{split}/{name}": value for name, value in summary["variants"].items()}
    if "fid_torch_fidelity" in summary:
        figures[f"{split}/fid_torch_fidelity"] = summary["fid_torch_fidelity"]
    for name, (low, high) in summary["intervals"].items():
        if f"{split}/{name}" in figures:  # ends that are not known are null, and not logged
            figures |= {f"{split}/{name}_low": low, f"{split}/{name}_high": high}
    return {name: v for name, v in figures.items() if v is not None and math.isfinite(v)}


def _log(workspace: Workspace, run_id: str, kept: KeptEvaluation, split: str) -> None:
    """Put an evaluation into its model's run, unless the same one is there."""
    tag = f"tintlab.evaluation.{split}"
    with asking(workspace, unknown=f"no run {run_id} in {workspace.tracking_uri}") as client:
        if client.get_run(run_id).data.tags.get(tag) == kept.folder.name:
            return
        for name, value in flat_metrics(kept.summary, split).items():
            client.log_metric(run_id, name, value)
        client.log_artifacts(run_id, str(kept.folder), f"evaluation/{split}")
        client.set_tag(run_id, tag, kept.folder.name)
