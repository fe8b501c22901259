"""A range test, tracked: its curve in an MLflow run and a picture, and no checkpoint anywhere."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tintlab.config import ExperimentConfig, Workspace
from tintlab.console import Result
from tintlab.data.contact_sheet import png
from tintlab.data.shards import open_shards
from tintlab.data.storage import full_uri, on_this_machine, resolve, written
from tintlab.errors import EnvironmentFault
from tintlab.tracking.runs import Run, open_run
from tintlab.training.lr_range import Curve, Rise, Suggestion, flags, range_test, suggested
from tintlab.training.lr_range_report import picture, text
from tintlab.training.perceptual import require_trunk
from tintlab.training.progress import Progress

EXPERIMENT = "lr-range"

FLUSH_TIMEOUT_S = 60.0
"""How long the end waits for the tracking server; the spool keeps the rest."""


@dataclass(frozen=True)
class Found:
    """What a tracked range test leaves."""

    run_id: str
    curve: Curve
    suggestion: Suggestion | None
    picture: str
    """Path or URI of the picture."""

    def result(self) -> Result:
        """For the command line: ends with 4 if there is nothing to suggest."""
        chosen = self.suggestion
        points = zip(self.curve.points, self.curve.smoothed.tolist(), strict=True)
        data: dict[str, Any] = {
            "run_id": self.run_id,
            "base_lr": chosen.base_lr if chosen else None,
            "peak_lr": chosen.peak_lr if chosen else None,
            "flags": flags(chosen) if chosen else [],
            "notes": chosen.notes if chosen else [],
            "ended": self.curve.ended,
            "picture": self.picture,
            "curve": [{**vars(point), "smoothed": smoothed} for point, smoothed in points],
        }
        told = f"{text(self.curve, chosen)}\nrun {self.run_id}, curve: {self.picture}"
        return Result(data, told, exit_code=0 if chosen else 4)


def find_rates(
    config: ExperimentConfig,
    workspace: Workspace,
    shards_uri: str,
    rise: Rise,
    name: str,
    out: str,
    on_progress: Callable[[Progress], None],
) -> Found:
    """Run a range test in an MLflow run of its own, and write its picture to `out`.

    Raises: what `range_test` raises; the run is then FAILED, or KILLED if it was told to stop.
        EnvironmentFault: the picture cannot be written; the run has it all the same.
    """
    require_trunk(config.loss)
    shards = open_shards(shards_uri, keep_pixels=on_this_machine(workspace.pixels, "pixels"))
    # Every test is a run of its own: one that was stopped is begun anew, not continued.
    identity = f"{EXPERIMENT}/{uuid.uuid4().hex}"
    run = open_run(workspace, EXPERIMENT, name, identity, tags={"seed": str(config.training.seed)})
    try:
        run.log_config(config)
        run.log_params({f"range.{key}": value for key, value in vars(rise).items()})
        run.log_environment()
        run.log_dataset(shards.manifest.fingerprint, shards.uri, shards.manifest.counts)

        def progressed(progress: Progress) -> None:
            run.log_metrics({"range/loss": progress.loss, "range/lr": progress.lr}, progress.step)
            on_progress(progress)

        curve = range_test(config, shards, rise, progressed)
        suggestion = suggested(curve)
        drawn = picture(curve, suggestion)
        _log_end(run, curve, suggestion, drawn)
    except (SystemExit, KeyboardInterrupt):
        run.close("KILLED", timeout_s=FLUSH_TIMEOUT_S)
        raise
    except BaseException as error:
        run.set_tags({"tintlab.error": f"{type(error).__name__}: {error}"[:500]})
        run.close("FAILED", timeout_s=FLUSH_TIMEOUT_S)
        raise
    run.close("FINISHED", timeout_s=FLUSH_TIMEOUT_S)
    return Found(run.run_id, curve, suggestion, _written(out, drawn, run.run_id))


def _log_end(
    run: Run, curve: Curve, suggestion: Suggestion | None, drawn: UInt8[np.ndarray, "H W 3"]
) -> None:
    last = curve.points[-1].step
    run.log_image("range/curve", last, drawn)
    if curve.ended:
        run.set_tags({"tintlab.ended": curve.ended})
    if suggestion:
        found = {"range/base_lr": suggestion.base_lr, "range/peak_lr": suggestion.peak_lr}
        run.log_metrics(found, last)


def _written(out: str, drawn: UInt8[np.ndarray, "H W 3"], run_id: str) -> str:
    fs, path = resolve(out)
    try:
        with written(fs, path) as file:
            file.write(png(Image.fromarray(drawn)))
    except OSError as error:
        why = " ".join(str(error).split())
        raise EnvironmentFault(
            f"cannot write {path}: {why}; give another --out (run {run_id} has the picture)"
        ) from None
    return full_uri(fs, path)
