"""One training, tracked: the single set-up that `tintlab train` and every trial of a sweep use.

It opens the shards and the MLflow run, continues from the newest good checkpoint if there is one,
runs the loop, sends what the loop reports to the run, and leaves a finished model behind.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import distributed

from tintlab.config import ExperimentConfig, Workspace
from tintlab.data.shards import Shards, open_shards
from tintlab.data.storage import on_this_machine
from tintlab.errors import ConfigError, TintlabError, refuse_secrets, without_secrets
from tintlab.evaluation.validate import validate
from tintlab.tracking.runs import Run, open_run
from tintlab.training.checkpoints import Checkpoints
from tintlab.training.failures import TrainingStopped
from tintlab.training.loop import Report, train
from tintlab.training.perceptual import require_trunk
from tintlab.training.progress import Progress
from tintlab.training.request import MAY_CHANGE, Outcome, RunRequest
from tintlab.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

METRIC_EVERY_STEPS = 10
"""Training metrics are logged every so many steps: a smooth curve without a row per step."""

PANEL_ZOOM = 2
"""Each pixel of the panel becomes a square of so many: crops of 64 px are small on a screen."""

EXPERIMENT = "experiment.json"
"""What a run was started with; it goes on with the same only."""

OUTCOME = "outcome.json"
"""Written when everything else is: a training that has it is not run again."""


@without_secrets()
def train_tracked(
    config: ExperimentConfig,
    workspace: Workspace,
    shards_uri: str,
    request: RunRequest,
    on_report: Callable[[Report, str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_notice: Callable[[str], None] = logger.warning,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train to the end, from the newest checkpoint of this identity if there is one.

    Args: on_report: called on every rank after each validation with the report and the run's id;
        on_progress: called on rank 0 at every step; on_notice: called on rank 0 with what a person
        should know although training goes on, such as a damaged checkpoint; stop: asked before
        every step, on every rank.
    Raises: what the loop raises; the run is then FAILED, or KILLED if it was told to stop.
        ConflictError: another process trains this run. EnvironmentFault: its folder cannot be
        written; both before there is a run.
    """
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    require_trunk(config.loss)  # before there is a run that could only fail
    folder = RunFolder(workspace, request.identity, rank)
    shards = open_shards(shards_uri, keep_pixels=on_this_machine(workspace.pixels, "pixels"))
    notice = on_notice if rank == 0 else lambda _: None
    run: Run | None = None
    try:
        with folder.held(notice):
            finished = None
            if rank == 0:
                check_same_experiment(folder, config, shards)
                finished = folder.read(OUTCOME)
            finished = _as_rank_0_says(finished)
            if finished:
                return Outcome(**finished)
            run = _open(config, workspace, shards, request) if rank == 0 else None
            resume = folder.newest(notice)
            own = resume.name if resume else None
            if (first := _as_rank_0_says(own)) != own:  # a listing that is late, a bad download
                raise OSError(f"rank {rank} finds checkpoint {own}, rank 0 finds {first}")
            return _train(
                config, shards, folder, run, resume, request, on_report, on_progress, stop
            )
    except (SystemExit, KeyboardInterrupt, TrainingStopped):  # by the scheduler, or by the user
        if run:
            run.close("KILLED", request.flush_timeout_s)
        raise
    except BaseException as error:
        if run:
            run.set_tags({"tintlab.error": f"{type(error).__name__}: {error}"[:500]})
            run.close("FAILED", request.flush_timeout_s)
        raise


def _train(
    config: ExperimentConfig,
    shards: Shards,
    folder: RunFolder,
    run: Run | None,
    resume: Path | None,
    request: RunRequest,
    on_report: Callable[[Report, str], None] | None,
    on_progress: Callable[[Progress], None] | None,
    stop: Callable[[], bool] | None,
) -> Outcome:
    """The loop, with what it reports sent to `run`, which rank 0 has."""
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
            folder.publish(config.training)
        # A repeated report is known to the run's spool. Without one, all of it was delivered.
        if run and (run.goes_on or not report.repeated):
            logged = {k: v for k, v in report.metrics.items() if k not in ("train/loss", "lr")}
            run.log_metrics(logged, report.step)
            if report.panel is not None:
                enlarged = report.panel.repeat(PANEL_ZOOM, axis=0).repeat(PANEL_ZOOM, axis=1)
                run.log_image("val/panel", report.step, enlarged)
        if on_report:
            on_report(report, run.run_id_so_far if run else "")

    try:
        train(
            config,
            shards,
            folder.local,
            validate=lambda model, data: validate(model, data, config.evaluation),
            report=reported,
            resume=resume,
            progress=progressed if run else None,
            stop=stop,
        )
    except TrainingStopped:  # with a checkpoint that no report is about
        if run:
            folder.publish(config.training)
        raise
    run_id = run.run_id if run else ""
    outcome = Outcome(run_id, f"{folder.uri}/model", metrics, config.training.steps)
    return _finish(run, folder, outcome, config, shards, request) if run else outcome


def _as_rank_0_says(found: Any) -> Any:
    """What rank 0 read, on every rank: another one may look a moment later, and see something else.

    It also keeps the others from the run's folder until rank 0 has it to itself.
    """
    if not distributed.is_initialized():
        return found
    box = [found]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def check_same_experiment(folder: RunFolder, config: ExperimentConfig, shards: Shards) -> None:
    """Refuse to continue a run with another configuration or other photos.

    Raises: ConfigError: names the first key that differs and both its values; or one whose value is
        a secret, which checkpoints, models and runs would all have in them.
        IntegrityError: the record of what it was started with is damaged.
    """
    refuse_secrets(config.flat())
    now = {**config.flat(), "data set": shards.manifest.fingerprint}
    before = folder.read(EXPERIMENT)
    if before is None:
        folder.write(EXPERIMENT, now)
        return
    for key in sorted((now.keys() | before.keys()) - MAY_CHANGE):
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
    run.log_system_metrics()
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
    run: Run,
    folder: RunFolder,
    outcome: Outcome,
    config: ExperimentConfig,
    shards: Shards,
    request: RunRequest,
) -> Outcome:
    newest = Checkpoints(folder.local).newest()
    if newest is None:
        raise TintlabError(f"no readable checkpoint in {folder.uri} at the end of its training")
    lineage = {"run_id": outcome.run_id, "data_fingerprint": shards.manifest.fingerprint}
    model = folder.save_model(Checkpoints.load_ema(newest), config, lineage)
    for file in sorted(model.iterdir()):
        run.log_artifact(file, "model")
    run.close("FINISHED", request.flush_timeout_s)
    outcome = replace(outcome, run_id=run.run_id_so_far)  # a slow store may have answered by now
    folder.write(OUTCOME, asdict(outcome))
    return outcome
