"""Evaluations that are kept: the same model on the same photos is measured once.

The folder of an evaluation is named by what it is made of, so whoever asks again finds it: the gate
that compares with the champion, and a command that was interrupted.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintlab.config import Workspace
from tintlab.data.shards import open_shards
from tintlab.evaluation.decodes import lpips_name
from tintlab.evaluation.evaluate import PANEL_FILE, SUMMARY_FILE, evaluate, save_evaluation
from tintlab.model.artifact import load_model
from tintlab.tracking.models import FoundModel
from tintlab.tracking.store import asking

_FIGURES = ("psnr_db", "ssim", "ciede2000", "colorfulness_ratio", "diversity_ab")
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


def evaluate_model(
    workspace: Workspace, found: FoundModel, shards_uri: str, split: str = "test"
) -> KeptEvaluation:
    """The evaluation of a model on a split: the kept one, or a new one that is kept and logged.

    Raises: IntegrityError: the model's files were changed. EnvironmentFault: no data set there, or
        the split is empty.
    """
    shards = open_shards(shards_uri)
    model, config = load_model(found.folder)
    made_of = {
        "model": hashlib.sha256((found.folder / "manifest.json").read_bytes()).hexdigest(),
        "data": shards.manifest.fingerprint,
        "split": split,
        "settings": config.evaluation.model_dump(exclude={"batch_size"}),
        "lpips": lpips_name(config.evaluation),  # measured once its weights are there
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(workspace.reports) / "evaluations" / key
    if not (folder / SUMMARY_FILE).exists():
        save_evaluation(evaluate(model, config, shards, split), folder)
    kept = KeptEvaluation(folder, json.loads((folder / SUMMARY_FILE).read_text()))
    if found.run_id:
        _log(workspace, found.run_id, kept, split)
    return kept


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
