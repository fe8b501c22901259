"""File locks between processes; the kernel releases them however their holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
