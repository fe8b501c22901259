"""One training, tracked: the single set-up that `tintlab train` and every trial of a sweep use.

It opens the shards and the MLflow run, continues from the newest good checkpoint if there is one,
runs the loop, sends what the loop reports to the run, and leaves a finished model behind.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import distributed

from tintlab.config import ExperimentConfig, Workspace
from tintlab.data.shards import Shards, open_shards
from tintlab.errors import ConfigError, TintlabError
from tintlab.evaluation.picture import write_whole
from tintlab.evaluation.validate import validate
from tintlab.model.artifact import save_model
from tintlab.tracking.runs import Run, open_run
from tintlab.training.checkpoints import Checkpoints
from tintlab.training.failures import TrainingStopped
from tintlab.training.loop import Progress, Report, train
from tintlab.training.perceptual import require_trunk

METRIC_EVERY_STEPS = 10
"""Training metrics are logged every so many steps: a smooth curve without a row per step."""

PANEL_ZOOM = 2
"""Each pixel of the panel becomes a square of so many: crops of 64 px are small on a screen."""

OUTCOME = "outcome.json"
"""Written when everything else is: a training that has it is not run again."""

FLUSH_TIMEOUT_S = 60.0
"""How long the end of a training waits for the tracking server; the spool keeps the rest."""


@dataclass(frozen=True)
class RunRequest:
    """Which run a training belongs to; `identity` finds the same run again after any crash."""

    experiment: str
    name: str
    identity: str
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a finished training leaves: its run, its model folder and its last metrics."""

    run_id: str
    model: str
    metrics: dict[str, float]
    steps: int


def run_folder(workspace: Workspace, identity: str) -> Path:
    """Where the checkpoints and the model of the run with this identity are kept.

    Raises: ConfigError: the workspace is a URI; checkpoints need a file system that can rename.
    """
    if not workspace.is_local:
        raise ConfigError(
            f"checkpoints need a folder, and the workspace is {workspace.root}; "
            "mount it as a shared file system and give that path"
        )
    slug = re.sub(r"[^\w.-]+", "_", identity)
    return Path(workspace.checkpoints) / slug


def train_tracked(
    config: ExperimentConfig,
    workspace: Workspace,
    shards_uri: str,
    request: RunRequest,
    on_report: Callable[[Report, str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train to the end, from the newest checkpoint of this identity if there is one.

    Args: on_report: called on every rank after each validation with the report and the run's id;
        on_progress: called on rank 0 at every step; stop: asked before every step, on every rank.
    Raises: what the loop raises; the run is then FAILED, or KILLED if it was told to stop.
    """
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    require_trunk(config.loss)  # before there is a run that could only fail
    folder = run_folder(workspace, request.identity)
    shards = open_shards(shards_uri, keep_pixels=Path(workspace.pixels))
    check_same_experiment(folder, config, shards)
    if (folder / OUTCOME).exists():
        return Outcome(**json.loads((folder / OUTCOME).read_text()))
    run = _open(config, workspace, shards, request) if rank == 0 else None
    run_id = run.run_id if run else ""
    metrics: dict[str, float] = {}

    def progressed(progress: Progress) -> None:
        if run and progress.step % METRIC_EVERY_STEPS == 0:
            now = {"train/loss": progress.loss, "lr": progress.lr}
            run.log_metrics(now, progress.step)
        if on_progress:
            on_progress(progress)

    def reported(report: Report) -> None:
        metrics.update(report.metrics)
        if run:
            logged = {k: v for k, v in report.metrics.items() if k not in ("train/loss", "lr")}
            run.log_metrics(logged, report.step)
            if report.panel is not None:
                enlarged = report.panel.repeat(PANEL_ZOOM, axis=0).repeat(PANEL_ZOOM, axis=1)
                run.log_image("val/panel", report.step, enlarged)
        if on_report:
            on_report(report, run_id)

    try:
        train(
            config,
            shards,
            folder,
            validate=lambda model, data: validate(model, data, config.evaluation),
            report=reported,
            resume=Checkpoints(folder).newest(),
            progress=progressed if rank == 0 else None,
            stop=stop,
        )
        outcome = Outcome(run_id, str(folder / "model"), metrics, config.training.steps)
        if run:
            _finish(run, folder, outcome, config, shards)
    except (SystemExit, KeyboardInterrupt, TrainingStopped):  # by the scheduler, or by the user
        if run:
            run.close("KILLED", timeout_s=FLUSH_TIMEOUT_S)
        raise
    except BaseException as error:
        if run:
            run.set_tags({"tintlab.error": f"{type(error).__name__}: {error}"[:500]})
            run.close("FAILED", timeout_s=FLUSH_TIMEOUT_S)
        raise
    return outcome


def check_same_experiment(folder: Path, config: ExperimentConfig, shards: Shards) -> None:
    """Refuse to continue a run with another configuration or other photos.

    Raises: ConfigError: names the first key that differs and both its values.
    """
    now = {**config.flat(), "data set": shards.manifest.fingerprint}
    record = folder / "experiment.json"
    if not record.exists():
        # Every rank may come here at once, all with the same bytes; each renames a file of its own.
        write_whole(record, json.dumps(now, indent=2).encode())
        return
    before = json.loads(record.read_text())
    for key in sorted(now.keys() | before.keys()):
        if now.get(key) != before.get(key):
            raise ConfigError(
                f"{folder.name} was started with {key}={before.get(key)!r}, got {now.get(key)!r}; "
                "give the same settings to continue it, or another --name to start anew"
            )


def _open(
    config: ExperimentConfig, workspace: Workspace, shards: Shards, request: RunRequest
) -> Run:
    run = open_run(
        workspace,
        request.experiment,
        request.name,
        request.identity,
        parent=request.parent,
        tags={"seed": str(config.training.seed), "group": group_of(config), **request.tags},
    )
    run.log_config(config)
    run.log_environment()
    manifest = shards.manifest
    run.log_dataset(manifest.fingerprint, shards.uri, manifest.counts)
    return run


def group_of(config: ExperimentConfig) -> str:
    """The same for runs that differ in their seed only: what the MLflow UI groups by."""
    rest = config.replaced({"training.seed": 0}).flat()
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:12]


def _finish(
    run: Run, folder: Path, outcome: Outcome, config: ExperimentConfig, shards: Shards
) -> None:
    newest = Checkpoints(folder).newest()
    if newest is None:
        raise TintlabError(f"no readable checkpoint in {folder} at the end of its training")
    model = Path(outcome.model)
    lineage = {"run_id": run.run_id, "data_fingerprint": shards.manifest.fingerprint}
    save_model(Checkpoints.load_ema(newest), config, model, metadata=lineage)
    for file in sorted(model.iterdir()):
        run.log_artifact(file, "model")
    run.close("FINISHED", timeout_s=FLUSH_TIMEOUT_S)
    write_whole(folder / OUTCOME, json.dumps(asdict(outcome), indent=2).encode())
