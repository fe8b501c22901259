"""Ray Train's TorchTrainer, for this machine's cores and for workers that die in odd moments.

Callbacks run in the process of Ray Train's controller, which loads them from here. They build on
what ray 2.60 keeps internal; tests/slow/test_training_faults.py holds it to that.
"""

from contextlib import suppress
from typing import Any

from ray.train import UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

from tintlab.errors import TintlabError


class Trainer(TorchTrainer):
    """TorchTrainer without the actor for data sets that Ray serves, as ours is not: it would only
    idle beside the workers; and with a remedy for failed starts."""

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        kept = [each for each in made if not isinstance(each, DatasetsCallback)]
        return [ReleaseFailedStarts(), *kept]  # first: the next one may find a dead worker


class ReleaseFailedStarts(WorkerGroupCallback, ControllerCallback):
    """Gives back the cores of workers that died while they started.

    Ray forgets a worker group of which a worker dies in the last part of its start, with its
    placement group (execution/worker_group/worker_group.py, _start, cleans up after earlier
    failures only); after a few of them the cluster has no core left.
    """

    def __init__(self) -> None:
        self._started: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Remember a group that has its workers, but may yet fail."""
        self._started = worker_group

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """Ray has done it."""
        self._started = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """The next try."""
        self._release()

    async def before_controller_shutdown(self) -> None:
        """No other try."""
        self._release()

    def _release(self) -> None:
        forgotten, self._started = self._started, None
        if forgotten and forgotten.has_started():
            with suppress(Exception):  # its workers may be dead
                forgotten.shutdown()


class MemoryWatch(UserCallback):
    """Writes on the board that no other try will go better, if memory was what workers died of."""

    def __init__(self, board: Any, error: TintlabError) -> None:
        self._board, self._error = board, error

    def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
        """Some workers died or raised."""
        if any(map(killed_for_memory, worker_exceptions.values())):
            self._board.fail.remote(self._error)


def killed_for_memory(error: BaseException) -> bool:
    """Whether Ray ended a process because its machine ran low on memory."""
    # ray 2.60 says so in the text only, whichever process it was.
    return "low on memory" in str(error) or "out of memory issue" in str(error)
