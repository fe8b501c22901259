"""Who trains a run: one process at a time, and another one is told which.

On a file system the kernel keeps the lock: it is gone with its holder, however that ends. Object
stores have no locks that all of fsspec's drivers could use. There the newest training writes its
name, and an older one that is still alive ends before its next checkpoint, when it finds that.
"""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from tintlab.config import Workspace
from tintlab.data.storage import is_local, one_line, require_writable, resolve, written
from tintlab.errors import ConflictError, EnvironmentFault
from tintlab.tracking.locks import described, owned, this_process

LOCK = ".lock"
OWNER = "owner.json"

PATIENCE_S = 10.0
"""How long a lock is waited for: the process that a new one replaces may still be ending."""


def run_uri(workspace: Workspace, identity: str) -> str:
    """The folder of the run with this identity."""
    name = re.sub(r"[^\w.-]+", "_", identity)
    return f"{workspace.checkpoints}/{name}"


def preflight(workspace: Workspace, identity: str) -> None:
    """Find at once what a training would find only when Ray has started.

    Raises: EnvironmentFault: the run's folder cannot be written. ConflictError: another process
        trains this run.
    """
    uri = run_uri(workspace, identity)
    require_writable(uri)
    fs, folder = resolve(uri)
    if is_local(fs):
        with locked(Path(folder), identity):
            pass


@contextmanager
def locked(folder: Path, run: str) -> Iterator[None]:
    """Be the only process that trains the run `run`, whose folder is made if need be.

    Raises: ConflictError: another one does. EnvironmentFault: the folder cannot be written, or its
        file system has no locks.
    """
    with owned(folder / LOCK, f"{run} is being trained", PATIENCE_S):
        yield


class Owner:
    """Whose run it is, on storage without locks: the training that said so last."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str, run: str) -> None:
        self._fs, self._path, self._run = fs, f"{root}/{OWNER}", run
        self._mine = json.dumps({**this_process(), "token": secrets.token_hex(8)}).encode()

    def begin(self) -> str | None:
        """Take the run over; returns who seems to have it, having never said that it ended."""
        before = self._read()
        try:
            with written(self._fs, self._path) as file:
                file.write(self._mine)
        except Exception as error:  # drivers raise what they like
            raise EnvironmentFault(f"cannot write {self._path}: {one_line(error)}") from None
        return described(before) if before else None

    def require(self) -> None:
        """Go on only as the owner.

        Raises: ConflictError: another training has begun since.
        """
        now = self._read()
        if now != self._mine:
            raise ConflictError(
                f"{self._run} was taken over by {described(now) if now else 'nobody known'}; "
                "this training ends, and has written nothing since"
            )

    def end(self) -> None:
        """Say that the run is nobody's, if it is this one's."""
        with suppress(Exception):  # it would only make the next one ask
            if self._read() == self._mine:
                self._fs.rm_file(self._path)

    def _read(self) -> bytes:
        try:
            self._fs.invalidate_cache()
            content: bytes = self._fs.cat_file(self._path)
        except FileNotFoundError:
            return b""
        except Exception as error:  # drivers raise what they like
            raise EnvironmentFault(f"cannot read {self._path}: {one_line(error)}") from None
        return content
