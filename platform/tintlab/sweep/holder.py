"""Who runs a sweep: one process at a time, and another one is told which.

Beside an SQLite file the kernel keeps the lock, so that it is gone with its holder. In any other
database the holder's name is in the study, and a counter in it that moves while it lives.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import psutil

from tintlab.errors import ConflictError
from tintlab.tracking.locks import owned, this_process

PATIENCE_S = 1.0
"""How long a lock is waited for: the process that a new one replaces may still be ending."""

BEAT_EVERY_S = 5.0
"""How often a holder in a database moves its counter."""

LOST_AFTER_S = 4 * BEAT_EVERY_S
"""A holder on another machine whose counter stands still for so long is taken to be dead."""

OWNER = "owner"


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL; None of any other database."""
    scheme, _, rest = url.partition(":///")
    return Path(rest) if scheme.split("+")[0] == "sqlite" and rest else None


@contextmanager
def held_beside(file: Path, name: str) -> Iterator[None]:
    """Be the only process that runs the sweep `name` of this SQLite file, inside the block.

    Raises: ConflictError: another one does; names it. EnvironmentFault: the folder of the file
        cannot be written, or has no locks.
    """
    lock = file.parent / "sweeps" / f"{file.stem}-{name}.lock"
    with owned(lock, f"sweep {name!r} is being run", PATIENCE_S):
        yield


class OwnerRecord:
    """The holder of a sweep, as its study says; for databases without a file to lock."""

    def __init__(self, study: optuna.Study, wait: Callable[[float], None] = time.sleep) -> None:
        self._study, self._wait = study, wait
        started_s = psutil.Process().create_time()
        self._mine = {**this_process(), "started_s": started_s, "token": secrets.token_hex(8)}
        self._beats = 0
        self._beaten_s = -BEAT_EVERY_S

    def take(self) -> None:
        """Become the holder.

        Raises: ConflictError: another process is, and lives.
        """
        before = self._read()
        if before and self._lives(before):
            raise self._taken(before)
        self._write()
        self._wait(
            PATIENCE_S
        )  # who looked in the same moment has written by now; the last one is it
        self._require_mine()

    def beat(self) -> None:
        """Say now and then that this process lives.

        Raises: ConflictError: another process has taken the sweep over meanwhile.
        """
        if time.monotonic() - self._beaten_s >= BEAT_EVERY_S:
            self._require_mine()
            self._write()

    def release(self) -> None:
        """Say that nobody holds it any longer."""
        now = self._read()
        if now and now["token"] == self._mine["token"]:
            self._study.set_user_attr(OWNER, None)

    def _lives(self, holder: dict[str, Any]) -> bool:
        if holder["machine"] == self._mine["machine"]:
            try:  # a process id may be another's by now
                return bool(psutil.Process(holder["process"]).create_time() == holder["started_s"])
            except psutil.NoSuchProcess:
                return False
        deadline_s = time.monotonic() + LOST_AFTER_S
        while time.monotonic() < deadline_s:
            self._wait(PATIENCE_S)
            now = self._read()
            if now != holder:
                return now is not None
        return False

    def _require_mine(self) -> None:
        now = self._read()
        if now is None or now["token"] != self._mine["token"]:
            raise self._taken(now or {})

    def _taken(self, holder: dict[str, Any]) -> ConflictError:
        who = "process {process} on {machine} since {since}".format_map(holder) if holder else "-"
        return ConflictError(
            f"sweep {self._study.study_name!r} is being run by {who}; wait for it to end, or stop "
            "it, or give another --name"
        )

    def _read(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._study.user_attrs.get(OWNER)
        return found

    def _write(self) -> None:
        self._beats += 1
        self._beaten_s = time.monotonic()
        self._study.set_user_attr(OWNER, {**self._mine, "beats": self._beats})
