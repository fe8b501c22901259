"""`tintlab train` through Ray Train: TorchTrainer around the tracked training."""

import os
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import EnvironmentFault, TintlabError
from tintlab.tracking.reading import run_of
from tintlab.tracking.runs import set_final_status
from tintlab.training.loop import Progress, Report
from tintlab.training.tracked import Outcome, RunRequest, train_tracked

START_FAILURES = 2
"""Ray would retry for ever a start whose resources never appear."""

WORKER_FAILURES = 3
"""Restarts after a worker died; each goes on from the newest checkpoint."""


class ProgressBoard:
    """An actor that holds the latest line of progress, so that the driver can show it."""

    def __init__(self) -> None:
        self._latest: Progress | None = None

    def write(self, progress: Progress) -> None:
        """Keep the newest line."""
        self._latest = progress

    def read(self) -> Progress | None:
        """The newest line, if there is one yet."""
        return self._latest


def fit(
    config: ExperimentConfig,
    workspace: Workspace,
    shards_uri: str,
    request: RunRequest,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train on `config.training.workers` Ray workers; needs a connected Ray.

    Raises: EnvironmentFault: the cluster has not got the resources. TintlabError: the training
        itself failed, with its own message.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    gpus = config.training.gpus_per_worker
    _check_resources(config, ray.cluster_resources())
    board = ray.remote(ProgressBoard).options(num_cpus=0).remote()
    payload = {
        "config": config.model_dump(),
        "workspace": workspace.root,
        "shards": shards_uri,
        "request": request,
        "board": board,
    }
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=payload,
        torch_config=TorchConfig(timeout_s=300),
        scaling_config=ScalingConfig(
            num_workers=config.training.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"GPU": gpus} if gpus else {"CPU": 1},
        ),
        run_config=RunConfig(
            name=request.identity.replace("/", "_") + f"-{int(time.time())}",
            storage_path=f"{workspace.root}/ray",
            failure_config=FailureConfig(
                max_failures=WORKER_FAILURES, controller_failure_limit=START_FAILURES
            ),
        ),
    )
    stop = Event()
    watcher = Thread(target=_watch, args=(board, on_progress, stop), daemon=True)
    watcher.start()
    try:
        result = trainer.fit()
    except SystemExit:  # Ray's answer to Ctrl-C, after the workers have ended
        run_id = run_of(workspace, request.experiment, request.identity)
        if run_id:
            set_final_status(workspace, run_id, "KILLED")
        raise KeyboardInterrupt from None
    except TrainingFailedError as error:
        raise _cause(error) from error
    finally:
        stop.set()
        watcher.join()
        ray.kill(board)
    if not isinstance(result.return_value, Outcome):
        raise TintlabError(f"the training of {request.name} ended without a result")
    return result.return_value


def line_of(progress: Progress) -> str:
    """One line of progress: step, loss, learning rate and speed."""
    return (
        f"step {progress.step}/{progress.total_steps}  loss {progress.loss:.4f}  "
        f"lr {progress.lr:.2e}  {progress.images_per_s:.0f} images/s"
    )


def train_worker(payload: dict[str, Any]) -> Outcome:
    """What each Ray Train worker runs."""
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    board = payload["board"]
    # Share the cores between the workers of this machine; more threads than cores only wait.
    local_workers = max(1, context.get_local_world_size())
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_workers))

    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the loop trains on the current device

    def on_report(report: Report, run_id: str) -> None:
        ray.train.report({**report.metrics, "step": report.step, "run_id": run_id})

    def on_progress(progress: Progress) -> None:
        board.write.remote(progress)

    return train_tracked(
        ExperimentConfig.model_validate(payload["config"]),
        Workspace(root=payload["workspace"]),
        payload["shards"],
        payload["request"],
        on_report=on_report,
        on_progress=on_progress,
    )


def _check_resources(config: ExperimentConfig, available: dict[str, float]) -> None:
    workers, gpus = config.training.workers, config.training.gpus_per_worker
    kind, each = ("GPU", gpus) if gpus else ("CPU", 1.0)
    have = available.get(kind, 0.0)
    if workers * each > have:
        raise EnvironmentFault(
            f"training.workers={workers} needs {workers * each:g} {kind}, "
            f"the cluster has {have:g}; use fewer workers or a larger cluster"
        )


def _watch(board: Any, show: Callable[[Progress], None] | None, stop: Event) -> None:
    import ray

    last = -1
    while show and not stop.wait(0.5):
        try:
            progress = ray.get(board.read.remote(), timeout=5)
        except ray.exceptions.RayError:
            continue
        if progress and progress.step != last:
            last = progress.step
            show(progress)


def _cause(error: BaseException) -> TintlabError:
    """The message of the error inside Ray's wrapping, as the user's own."""
    found: BaseException = error
    failures = getattr(error, "worker_failures", None)
    if failures:
        found = next(iter(failures.values()))
    while True:
        inner = getattr(found, "cause", None) or getattr(found, "_base_exc", None)
        inner = inner or found.__cause__
        if not isinstance(inner, BaseException) or inner is found:
            break
        found = inner
    if isinstance(found, TintlabError):
        return found
    first = (str(found).strip() or type(found).__name__).splitlines()[-1]
    return TintlabError(f"training failed: {type(found).__name__}: {first}")
