"""`tintlab train` through Ray Train: TorchTrainer around the tracked training.

Workers and driver talk through one small actor, the board: workers write how far they are and what
ended them, the driver writes that they should stop. A failure that another try would only repeat
(diverged, out of memory, damaged shards) is handed back instead of raised where all workers have
it, and written on the board where one has: Ray starts every worker again that raises, whatever it
raised, and the next attempt then ends at once.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from threading import Event, Thread
from typing import Any

from tintlab.cluster import storage_of
from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import EnvironmentFault, TintlabError
from tintlab.interrupts import Interruptible
from tintlab.settings import TrainingConfig
from tintlab.tracking.spool import TroubleTeller
from tintlab.training.board import Board, watch
from tintlab.training.failures import OutOfMemory, TrainingStopped, out_of_memory
from tintlab.training.progress import Progress
from tintlab.training.request import Outcome, RunRequest
from tintlab.training.resources import still_busy, wait_for_room
from tintlab.training.worker import in_one_line, train_worker

START_FAILURES = 2
"""Ray would retry for ever a start whose resources never appear."""

STOP_GRACE_S = 25.0
"""How long the first Ctrl-C or SIGTERM waits for the step that is being made and its checkpoint;
schedulers that send SIGTERM commonly kill 30 s later."""

HANG_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
"""Ray's own watch over workers that do not even answer, such as stopped processes."""

POLL_VARIABLE, POLL_S = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", 0.5
"""How often Ray Train looks whether workers have started, reported or ended; by default 2 s."""

METRICS_VARIABLE = "RAY_TRAIN_METRICS_ENABLED"
"""Ray Train's own metrics, for a Prometheus beside Ray's dashboard; ours are in MLflow."""

PREEMPTION_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""A process of Ray Train; a Ray on this machine alone has no node that could be taken away."""


def fit(
    config: ExperimentConfig,
    workspace: Workspace,
    shards_uri: str,
    request: RunRequest,
    on_progress: Callable[[Progress], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    on_report: Callable[[int, dict[str, float], str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train on `config.training.workers` Ray workers; needs a connected Ray.

    Ctrl-C and SIGTERM let the step that is being made end and be kept; a second one does not wait.

    Args: on_notice: called with a line when workers are started again or asked to stop, and with
        what they have to say, such as that a checkpoint is damaged. on_report: called in a thread
        with step, metrics and run id of every validation. stop: asked every second; the training
        then ends with TrainingStopped, after the step that is being made.
    Raises: EnvironmentFault: the cluster has not got the resources. TintlabError: the training
        itself failed, with its own message. KeyboardInterrupt: it was stopped.
    """
    import ray
    from ray.exceptions import RayError
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    notice = on_notice or (lambda _: None)
    wait_for_room(config.training, notice)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
    payload = {
        "config": config.model_dump(),
        "workspace": workspace.root,
        "shards": shards_uri,
        "request": asdict(request),
        "board": board,
    }
    teller = TroubleTeller(workspace, request.identity, notice)

    def shown(progress: Progress) -> None:
        teller.look()
        if on_progress:
            on_progress(progress)

    done = Event()
    told = (board, shown, notice, done, on_report, stop)
    watcher = Thread(target=watch, args=told, daemon=True)
    watcher.start()
    training = Interruptible(lambda: _fitted(payload, config.training, workspace, request))
    try:
        training.wait(lambda: _ask_to_stop(board, notice), STOP_GRACE_S)
    except KeyboardInterrupt:  # asked twice, or the workers did not stop in time
        _mark_killed(workspace, request)
        raise
    except (TrainingFailedError, RayError) as error:
        said = None
        with suppress(RayError):  # the board may have died as well
            said = ray.get(board.read.remote()).failure
        if training.interrupt and not said:  # the signal reached the workers as well
            _mark_killed(workspace, request)
            raise training.interrupt from error
        raise said or _failure_of(error, config.training) from error
    finally:
        done.set()
        watcher.join()
        teller.look()
        ray.kill(board)
    returned = training.result.return_value
    if isinstance(returned, TrainingStopped) and training.interrupt:
        notice(str(returned))
        raise training.interrupt
    if isinstance(returned, TintlabError):
        raise returned
    if not isinstance(returned, Outcome):
        raise TintlabError(f"the training of {request.name} ended without a result")
    return returned


def line_of(progress: Progress) -> str:
    """One line of progress: step, loss, learning rate, speed and time left."""
    minutes, seconds = divmod(round(progress.eta_s), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"step {progress.step}/{progress.total_steps}  loss {progress.loss:.4f}  "
        f"lr {progress.lr:.2e}  {progress.images_per_s:.0f} images/s  "
        f"ETA {hours}:{minutes:02d}:{seconds:02d}"
    )


def _fitted(
    payload: dict[str, Any], training: TrainingConfig, workspace: Workspace, request: RunRequest
) -> Any:
    """Ray Train's result; a worker that dies while it is being started is tried again, too.

    Ray restarts workers that die later, but takes this for a failure of its own controller.
    """
    import ray
    from ray.exceptions import RayActorError
    from ray.train.v2.api.exceptions import ControllerError

    from tintlab.training.trainer import Trainer

    tries = starts_failed = 0
    while True:
        settings = _ray_settings(training, workspace, request, payload["board"], tries)
        try:
            with _environment(training):
                return Trainer(train_worker, train_loop_config=payload, **settings).fit()
        except ControllerError as error:
            starts_failed += 1
            died = isinstance(error.controller_failure, RayActorError)
            tries = starts_failed + ray.get(payload["board"].read.remote()).attempts
            if not died or tries > training.max_restarts:
                raise


def _ray_settings(
    training: TrainingConfig, workspace: Workspace, request: RunRequest, board: Any, tries: int
) -> dict[str, Any]:
    """Args: tries: how often workers were started already."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from tintlab.training.trainer import MemoryWatch

    gpus, most, fewest = training.gpus_per_worker, training.workers, training.min_workers
    return {
        "torch_config": TorchConfig(timeout_s=max(1, int(training.hang_timeout_s))),
        "scaling_config": ScalingConfig(
            num_workers=(fewest, most) if 0 < fewest < most else most,
            use_gpu=gpus > 0,
            resources_per_worker={"GPU": gpus} if gpus else {"CPU": 1},
        ),
        "run_config": RunConfig(
            # New at every start: Ray would take up its own snapshot of the name, and ours counts.
            name=request.identity.replace("/", "_") + f"-{int(time.time())}",
            **storage_of(workspace),
            callbacks=[MemoryWatch(board, _no_memory(training))],
            failure_config=FailureConfig(
                max_failures=training.max_restarts - tries,
                # A worker that dies while it starts counts here or, later in its start, nowhere.
                controller_failure_limit=max(START_FAILURES, training.max_restarts),
            ),
        ),
    }


def _ask_to_stop(board: Any, notice: Callable[[str], None]) -> bool:
    """Ask the workers; False if there are none yet."""
    import ray

    if not ray.get(board.read.remote()).attempts:
        return False
    notice("stopping after this step; once more stops at once")
    board.ask_to_stop.remote()
    # Seconds of imports, which are due should they not stop in time; then there is none left.
    Thread(target=_tracking, daemon=True).start()
    return True


def _mark_killed(workspace: Workspace, request: RunRequest) -> None:
    run_of, set_final_status = _tracking()
    with suppress(TintlabError):  # the store may be away, or know nothing of this run yet
        if run_id := run_of(workspace, request.experiment, request.identity):
            set_final_status(workspace, run_id, "KILLED")


def _tracking() -> tuple[Any, Any]:
    """What `_mark_killed` needs of MLflow, which a driver can do without otherwise."""
    from tintlab.tracking.reading import run_of
    from tintlab.tracking.runs import set_final_status

    return run_of, set_final_status


@contextmanager
def _environment(training: TrainingConfig) -> Iterator[None]:
    """Ray Train reads some of its settings from the environment of whoever starts it."""
    settings = {HANG_VARIABLE: str(training.hang_timeout_s), POLL_VARIABLE: str(POLL_S)}
    settings[METRICS_VARIABLE] = "0"
    if not os.environ.get("RAY_ADDRESS"):
        settings[PREEMPTION_VARIABLE] = "0"
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update({name: before[name] or value for name, value in settings.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


def _failure_of(error: BaseException, training: TrainingConfig) -> TintlabError:
    """The message of the error inside Ray's wrapping, as the user's own."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    from tintlab.training.trainer import killed_for_memory

    if killed_for_memory(error):
        return _no_memory(training)
    if isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError):
        busy = still_busy(training) or "its nodes did not start the workers"
        return EnvironmentFault(f"the cluster had no room: {busy}; wait, or use fewer workers")
    found: BaseException = error
    failures = getattr(error, "worker_failures", None)
    if failures:
        found = next(iter(failures.values()))
    seen = {id(found)}
    while True:
        inner = getattr(found, "cause", None) or getattr(found, "_base_exc", None)
        inner = inner or found.__cause__
        if not isinstance(inner, BaseException) or id(inner) in seen:
            return in_one_line(found)
        seen.add(id(inner))
        found = inner


def _no_memory(training: TrainingConfig) -> OutOfMemory:
    return out_of_memory("the machine of a worker", training, training.passes(training.workers)[0])
