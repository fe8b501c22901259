"""The spool: what a run measures, on this machine's disk until the tracking store has it.

    <spool>/<run>.lock               held while segments are listed, added or removed
    <spool>/<run>/000001.jsonl       one segment per process that opened the run, locked by it
                  000001.ack         how many of its bytes the store has
                  files/...          images and artefacts named by records
                  trouble.txt        why the store does not get them, as long as it does not

A record is one line: CRC-32 of the JSON in eight hex digits, a space, JSON. A process may die at
any byte: a line without its end is a record that was never made, and a line whose CRC does not
match is skipped with a warning. Everything a record asks for can be asked for twice with the same
result, so the count of acknowledged bytes may lag behind. No record holds a secret, and nothing
goes to MLflow by another way.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tintlab.config import Workspace
from tintlab.redaction import redacted_tree
from tintlab.tracking.locks import claimed, locked

logger = logging.getLogger(__name__)

Record = dict[str, Any]

TROUBLE = "trouble.txt"

_COMPACT = json.JSONEncoder(separators=(",", ":"))


def spool_root(workspace: Workspace) -> Path:
    """Where runs are spooled: in the workspace, or, when that is a URI, in this machine's temporary
    folder (a spool needs appends, locks and fsync), where `tintlab track sync` looks as well."""
    if workspace.is_local:
        return Path(workspace.spool)
    return Path(tempfile.gettempdir()) / "tintlab-spool" / _digest(workspace.root)


def run_folder(workspace: Workspace, identity: str) -> Path:
    """The spool folder of the run with this identity."""
    slug = re.sub(r"[^\w.-]+", "_", identity)[:80]
    return (
        spool_root(workspace) / f"{slug}-{_digest(identity)}"
    )  # the digest keeps a/b and a_b apart


def run_lock(folder: Path) -> Path:
    """The lock of a run's folder; beside it, because the folder is removed at the end."""
    return folder.with_name(f"{folder.name}.lock")


class Segment:
    """One process's records of a run, append-only; locked for as long as this object is open."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._ack = path.with_suffix(".ack")
        self._lock = threading.Lock()
        self._held = b""  # what a full disk has not taken yet
        self._dirty = False
        self._warned = False
        self.end = os.fstat(descriptor).st_size
        """Bytes of records made so far."""
        self.acknowledged = int(self._ack.read_text()) if self._ack.exists() else 0
        """Bytes of records that the store has."""

    @classmethod
    def new(cls, folder: Path) -> "Segment":
        """The next segment of a run; the caller holds the run's lock."""
        (folder / "files").mkdir(parents=True, exist_ok=True)
        number = max((int(path.stem) for path in folder.glob("*.jsonl")), default=0) + 1
        path = folder / f"{number:06d}.jsonl"
        path.touch(exist_ok=False)
        descriptor = claimed(path)
        assert descriptor is not None
        return cls(path, descriptor)

    @classmethod
    def left_behind(cls, folder: Path) -> "list[Segment]":
        """The segments whose processes are gone, oldest first; the caller holds the run's lock."""
        segments = []
        for path in sorted(folder.glob("*.jsonl")):
            descriptor = claimed(path)
            if descriptor is not None:
                # A torn end is a record that was never made; without it, records can follow.
                whole = max((end for _, end in read_records(path)), default=0)
                os.ftruncate(descriptor, whole)
                segments.append(cls(path, descriptor))
        return segments

    def append(self, record: Record) -> int:
        """Add a record; returns the offset after it.

        It is with the operating system when this returns, so it outlives this process; `persist`
        makes it outlive the machine. A full disk delays records in memory and loses none.
        """
        if record["kind"] != "metrics":  # names of metrics are our own, and speed counts there
            record = redacted_tree(record)
        body = _COMPACT.encode(record).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        with self._lock:
            self.end += len(line)
            self._held += line
            self._write_held()
            return self.end

    def persist(self) -> None:
        """Wait until the disk has all records."""
        if self._dirty:
            self._dirty = False
            with self._lock:
                self._write_held()
            os.fsync(self._descriptor)

    def _write_held(self) -> None:
        self._dirty = True
        try:
            self._held = self._held[os.write(self._descriptor, self._held) :]
        except OSError as error:
            if not self._warned:
                logger.warning("%s cannot grow: %s; free some space", self.path, error.strerror)
            self._warned = True

    def unsent(self) -> Iterator[tuple[Record | None, int]]:
        """Records the store does not have, as `read_records` gives them."""
        yield from read_records(self.path, self.acknowledged)

    def acknowledge(self, offset: int) -> None:
        """Note that the store has everything before `offset`."""
        partial = self._ack.with_suffix(".tmp")
        partial.write_text(str(offset))
        os.replace(partial, self._ack)
        self.acknowledged = offset

    def close(self) -> None:
        """Release the segment; whoever opens the run next may send what is left of it."""
        os.close(self._descriptor)


def read_records(path: Path, start: int = 0) -> Iterator[tuple[Record | None, int]]:
    """Whole records from byte `start`, each with the offset after it; None for a damaged one."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):  # torn, or still being written
                return
            start += len(line)
            yield parsed_line(line), start


def parsed_line(line: bytes) -> Record | None:
    """The record of one line, or None if its checksum does not match."""
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    record: Record = json.loads(body)
    return record


class TroubleTeller:
    """Says once what keeps a run's records from the store: the run is in a process without a
    terminal, and whoever started it should know."""

    def __init__(self, workspace: Workspace, identity: str, tell: Callable[[str], None]) -> None:
        self._file = run_folder(workspace, identity) / TROUBLE
        self._tell: Callable[[str], None] | None = tell

    def look(self) -> None:
        """Tell it if there is some and it was not told before."""
        if self._tell and self._file.exists():
            with suppress(OSError):  # over in this very moment
                self._tell(f"{self._file.read_text()}; tintlab track sync sends what is left")
                self._tell = None


def remove_if_delivered(folder: Path) -> None:
    """Remove a finished run's spool unless somebody writes to it or a record waits in it."""
    with locked(run_lock(folder)):
        names = {path.name for path in folder.glob("*.jsonl")}
        segments = Segment.left_behind(folder)
        try:
            if (
                segments
                and len(segments) == len(names)
                and all(s.acknowledged >= s.end for s in segments)
            ):
                shutil.rmtree(folder)
        finally:
            for segment in segments:
                segment.close()


def now_ms() -> int:
    """This moment as MLflow counts time."""
    return time.time_ns() // 1_000_000


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
