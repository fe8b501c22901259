"""Where a run keeps its checkpoints, its records and its model: a folder, or any fsspec URI.

    <workspace>/checkpoints/<run>/
        step-00000100/      checkpoints
        experiment.json     what the run was started with
        model/              the finished model
        outcome.json        written last

On a file system (a `file://` URI too) all of it is written in its place. On other storage training
writes to a folder of its own machine, from where checkpoints and the model are copied; that folder
is emptied before and after, so that the storage alone is the record.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tintlab.config import ExperimentConfig, Workspace
from tintlab.data.storage import (
    full_uri,
    is_local,
    on_this_machine,
    one_line,
    require_writable,
    resolve,
    written,
)
from tintlab.errors import EnvironmentFault, IntegrityError, TintlabError
from tintlab.model import artifact
from tintlab.model.colorizer import Colorizer
from tintlab.settings import TrainingConfig
from tintlab.training.checkpoints import Checkpoints
from tintlab.training.ownership import Owner, locked, run_uri
from tintlab.training.remote_checkpoints import RemoteCheckpoints

MODEL = "model"


class RunFolder:
    """The place of one run, as one rank of its training sees it.

    Args: identity: finds the same run again after any crash.
    """

    def __init__(self, workspace: Workspace, identity: str, rank: int = 0) -> None:
        self.identity = identity
        self.rank = rank
        self._fs, self._root = resolve(run_uri(workspace, identity))
        self.name = self._root.rsplit("/", 1)[1]
        self.uri = full_uri(self._fs, self._root)
        """What is said of it, and where everything is in the end."""
        self.is_local = is_local(self._fs)
        self._here = on_this_machine(self.uri, "checkpoints")
        self.local = self._here if self.is_local else self._here / f"rank-{rank}"
        """Where this process writes checkpoints and the model."""
        self._remote = RemoteCheckpoints(self._fs, self._root)
        self._owner = Owner(self._fs, self._root, identity)

    @contextmanager
    def held(self, notice: Callable[[str], None]) -> Iterator[None]:
        """Be the only training of this run in the block; asked of rank 0 alone.

        Args: notice: told of another training that never said that it ended.
        Raises: EnvironmentFault: the folder cannot be written. ConflictError: another process
            trains this run, on a file system; on other storage that one ends, at its next
            checkpoint, with this error.
        """
        with ExitStack() as stack:
            if self.rank == 0:
                require_writable(self.uri)
                stack.enter_context(locked(self._here, self.identity))
            if self.is_local:
                yield
                return
            stack.callback(shutil.rmtree, self.local, ignore_errors=True)
            shutil.rmtree(self.local, ignore_errors=True)  # of a process that was killed
            if self.rank == 0:
                if other := self._owner.begin():
                    notice(
                        f"{other} never said that it ended the training of {self.identity}; "
                        "if it still trains, it ends at its next checkpoint"
                    )
                stack.callback(self._owner.end)
            try:
                yield
            except TintlabError as error:  # which names a folder that will be gone
                error.args = tuple(
                    part.replace(str(self.local), self.uri) if isinstance(part, str) else part
                    for part in error.args
                )
                raise

    def newest(self, notice: Callable[[str], None]) -> Path | None:
        """The newest intact checkpoint as a local folder; None where none was ever written.

        Args: notice: told of each damaged one that is passed over.
        Raises: see `Checkpoints.newest`.
        """
        if self.is_local:
            return Checkpoints(self.local).newest(notice)
        return self._remote.newest(self.local, notice)

    def publish(self, training: TrainingConfig) -> None:
        """Bring the newest checkpoint of this process to where it must be.

        Raises: EnvironmentFault: the storage does not take it. ConflictError: another training has
            taken the run over.
        """
        if self.is_local:
            return
        self._owner.require()
        self._remote.upload(Checkpoints(self.local).all()[-1])
        self._remote.prune(training.keep_last, training.keep_best)

    def save_model(
        self, model: Colorizer, config: ExperimentConfig, metadata: dict[str, Any]
    ) -> Path:
        """Save the finished model as `model`; returns a local folder with its files.

        Raises: see `artifact.save_model`.
        """
        folder = self.local / MODEL
        artifact.save_model(model, config, folder, metadata)
        if not self.is_local:
            self._owner.require()
            target = f"{self._root}/{MODEL}"
            try:
                with suppress(FileNotFoundError):  # without a manifest it is no model
                    self._fs.rm_file(f"{target}/{artifact.MANIFEST}")
                for name in (artifact.WEIGHTS, artifact.CONFIG, artifact.MANIFEST):
                    self._fs.put_file(str(folder / name), f"{target}/{name}")
            except Exception as error:  # drivers raise what they like
                raise EnvironmentFault(
                    f"cannot save the model as {self.uri}/{MODEL}: {one_line(error)}; see to the "
                    "storage, then run the same command again"
                ) from error
        return folder

    def read(self, name: str) -> dict[str, Any] | None:
        """A record of the run; None if it was not written.

        Raises: IntegrityError: it is damaged. EnvironmentFault: the storage cannot be read.
        """
        try:
            self._fs.invalidate_cache()
            content = self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:  # drivers raise what they like
            raise EnvironmentFault(f"cannot read {self.uri}/{name}: {one_line(error)}") from None
        try:
            record = json.loads(content)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise IntegrityError(
                f"{self.uri}/{name} is not what was written: it was altered; restore it, or delete "
                f"{self.uri} to train from the start"
            )
        return record

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write a record of the run, whole or not at all.

        Raises: EnvironmentFault: it cannot be written.
        """
        try:
            with written(self._fs, f"{self._root}/{name}") as file:
                file.write(json.dumps(record, indent=2).encode())
        except Exception as error:  # drivers raise what they like
            raise EnvironmentFault(f"cannot write {self.uri}/{name}: {one_line(error)}") from None
