"""An evaluation on many workers: Ray Data with a pool of actors, each of which holds the model.

The only module of `evaluation` that knows Ray. What a worker does is `measuring`, the same as in
one process, and what comes of it does not depend on which worker did it.
"""

import pickle
from collections.abc import Iterator, Sequence

import numpy as np

from tintlab.cluster import connect
from tintlab.config import Workspace
from tintlab.errors import ConfigError, TintlabError
from tintlab.evaluation.measuring import Done, Measurer, Task

CORES_PER_WORKER = 1


class Worker:
    """One actor of the pool. Tasks and what comes of them pass as bytes, which Ray Data keeps as
    they are; nothing of them is stored."""

    def __init__(self, measurer: Measurer) -> None:
        self._measurer = measurer

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        """Do the tasks of a batch of rows."""
        return {"done": [pickle.dumps(self._done(pickle.loads(task))) for task in batch["task"]]}

    def _done(self, task: Task) -> Done | TintlabError:
        try:
            return self._measurer(task)
        except TintlabError as fault:  # Ray would wrap it in its own, and try again
            return fault


def on_ray(
    measurer: Measurer, tasks: Sequence[Task], workspace: Workspace, workers: int
) -> Iterator[Done]:
    """What comes of tasks, in any order, as so many workers finish them.

    Joins the Ray that is there, or $RAY_ADDRESS, or starts one for the time it takes.
    Raises: ConfigError: the cluster has fewer cores. What a task raises is raised here.
    """
    with connect(workspace):
        import ray
        from ray.data import ActorPoolStrategy

        cores = int(ray.cluster_resources().get("CPU", 0))
        if workers * CORES_PER_WORKER > cores:
            raise ConfigError(
                f"{workers} workers need {workers * CORES_PER_WORKER} cores, the cluster has "
                f"{cores}; use --workers {cores} or fewer"
            )
        size = min(workers, len(tasks))
        rows = ray.data.from_items(
            [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
        )
        done = rows.map_batches(
            Worker,
            fn_constructor_args=(measurer,),
            batch_size=1,
            compute=ActorPoolStrategy(size=size),
            num_cpus=CORES_PER_WORKER,
        )
        for row in done.iter_rows():
            result = pickle.loads(row["done"])
            if isinstance(result, TintlabError):
                raise result
            yield result
