"""File locks between processes; the kernel releases them however their holder dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tintlab.errors import ConflictError, EnvironmentFault


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path` inside the block, after waiting for it; the file is left in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never deleted: a waiter would then hold a lock on a file that nobody else can see.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def claimed(path: Path) -> int | None:
    """A descriptor of the existing file `path`, locked; None while another holder has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def owned(
    path: Path,
    what: str,
    patience_s: float,
    advice: str = "wait for it to end, or stop it, or give another --name",
) -> Iterator[None]:
    """Hold the lock `path`, in which the holder's name stands, inside the block.

    Args: what: whose lock it is, with its verb, "run x is being trained".
        patience_s: how long a living holder is waited for. advice: what to do if it stays.
    Raises: ConflictError: another process holds it, which is named. EnvironmentFault: the file
        cannot be written, or its file system has no locks.
    """
    deadline_s = time.monotonic() + patience_s
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        while (descriptor := claimed(path)) is None:
            if time.monotonic() > deadline_s:
                raise ConflictError(f"{what} by {described(path.read_bytes())}; {advice}")
            time.sleep(0.1)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot lock {path}: {error.strerror}; choose a workspace that can be written, on a "
            "file system with locks"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(this_process()).encode())
        yield
    finally:
        os.close(descriptor)


def this_process() -> dict[str, str | int]:
    """This process, for others to read."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"process": os.getpid(), "machine": socket.gethostname(), "since": since}


def described(content: bytes) -> str:
    """What `this_process` of a holder says, for a message."""
    try:
        who = json.loads(content)
        return f"process {who['process']} on {who['machine']} since {who['since']}"
    except (ValueError, KeyError, TypeError):  # it is just being written
        return "another process"
