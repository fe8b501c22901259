"""Room for workers: what a cluster has, and what of it is free."""

import os
import time
from collections.abc import Callable, Mapping

from tintlab.errors import EnvironmentFault
from tintlab.settings import TrainingConfig

WAIT_VARIABLE, WAIT_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 60.0
"""How long Ray Train waits for workers to start, at each try; so long the wait for room is, too."""

LOOK_EVERY_S = 1.0


def fitting(training: TrainingConfig, at_once: int, resources: Mapping[str, float]) -> int:
    """How many trainings to start together: as many as asked for, and as there is room for; with
    several workers each, one more would only wait for the others, and then give up."""
    kind, each = _per_worker(training)
    room = resources.get(kind, 0.0) / ((training.min_workers or training.workers) * each)
    return max(1, min(at_once, int(room)))


def check_resources(training: TrainingConfig, available: dict[str, float]) -> None:
    """Raises: EnvironmentFault: the cluster cannot hold the fewest workers to train on."""
    workers = training.min_workers or training.workers
    kind, each = _per_worker(training)
    have = available.get(kind, 0.0)
    if workers * each > have:
        key = "min_workers" if training.min_workers else "workers"
        gpus = training.gpus_per_worker
        less = "set training.gpus_per_worker to 0 to train on CPUs" if gpus else "use fewer workers"
        raise EnvironmentFault(
            f"training.{key}={workers} needs {workers * each:g} {kind}, "
            f"the cluster has {have:g}; {less} or a larger cluster"
        )


def wait_for_room(training: TrainingConfig, notice: Callable[[str], None]) -> None:
    """Until the fewest workers to train on fit beside other work; Ray would not say what it waits
    for, and with a range of workers not end.

    Args: notice: called with a line if it takes longer than a moment.
    Raises: EnvironmentFault: the cluster cannot hold them, or has no room for too long.
    """
    import ray

    check_resources(training, ray.cluster_resources())
    wait_s = float(os.environ.get(WAIT_VARIABLE) or WAIT_S)
    began_s, told = time.monotonic(), False
    while busy := still_busy(training):
        waited_s = time.monotonic() - began_s
        if waited_s > wait_s:
            raise EnvironmentFault(
                f"the cluster had no room for {wait_s:g} s: {busy}; wait, or use fewer workers"
            )
        # What work used that has just ended is counted a moment late.
        if waited_s >= LOOK_EVERY_S and not told:
            notice(f"waiting for other work to end: {busy}")
            told = True
        time.sleep(LOOK_EVERY_S)


def still_busy(training: TrainingConfig) -> str | None:
    """What the cluster has, but others use; None if there is room."""
    import ray

    workers = training.min_workers or training.workers
    kind, each = _per_worker(training)
    free = ray.available_resources().get(kind, 0.0)
    if workers * each <= free:
        return None
    have = ray.cluster_resources().get(kind, 0.0)
    return f"training needs {workers * each:g} {kind}, and {free:g} of {have:g} are free"


def _per_worker(training: TrainingConfig) -> tuple[str, float]:
    gpus = training.gpus_per_worker
    return ("GPU", gpus) if gpus else ("CPU", 1.0)
