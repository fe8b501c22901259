"""`tintlab track sync`: sends what processes that died, or had no store, left in the spool."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tintlab.config import Workspace
from tintlab.tracking.locks import locked
from tintlab.tracking.sender import Sender
from tintlab.tracking.spool import (
    TROUBLE,
    Record,
    Segment,
    now_ms,
    read_records,
    remove_if_delivered,
    run_folder,
    run_lock,
    spool_root,
)
from tintlab.tracking.store import asking, ensure_store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Synced:
    """What `sync` did."""

    runs: int
    """Runs of which something was sent."""
    records: int
    """Records sent."""
    still_open: int
    """Runs left alone because a living process has them open."""


def unsent(workspace: Workspace) -> int:
    """How many runs have records in the spool that the store has not got."""
    waiting = set()
    for path in spool_root(workspace).glob("*/*.jsonl"):
        acknowledged = path.with_suffix(".ack")
        sent = int(acknowledged.read_text()) if acknowledged.exists() else 0
        if path.stat().st_size > sent:
            waiting.add(path.parent)
    return len(waiting)


def sync(workspace: Workspace, identities: Collection[str] | None = None) -> Synced:
    """Send what processes that died left in the spool; a run none of them closed becomes FAILED.

    Args: identities: look at these runs only.
    Raises: EnvironmentFault: the store does not answer; what was sent until then stays sent.
    """
    runs = records = still_open = 0
    wanted = None if identities is None else {run_folder(workspace, i) for i in identities}
    folders = [path for path in spool_root(workspace).glob("*") if path.is_dir()]
    # Parents first: a run that finds its parent in the store is put under it.
    for folder in sorted(folders, key=lambda f: ((_header(f) or {}).get("parent") is not None, f)):
        if wanted is not None and folder not in wanted:
            continue
        with locked(run_lock(folder)):
            total = len(list(folder.glob("*.jsonl")))
            segments = Segment.left_behind(folder)
        try:
            if len(segments) < total:
                still_open += 1
                continue
            sent, status = _send_all(workspace, folder, segments)
        finally:
            for segment in segments:
                segment.close()
        (folder / TROUBLE).unlink(missing_ok=True)
        records += sent
        runs += bool(sent)
        if status == "FINISHED":
            remove_if_delivered(folder)
    return Synced(runs, records, still_open)


def _header(folder: Path) -> Record | None:
    """The record that says which run a folder is of."""
    for path in sorted(folder.glob("*.jsonl")):
        for record, _ in read_records(path):
            if record and record["kind"] == "open":
                return record
    return None


def _send_all(workspace: Workspace, folder: Path, segments: list[Segment]) -> tuple[int, str]:
    header = _header(folder)
    if header is None:
        logger.warning("%s does not say which run it is of and was not sent", folder)
        return 0, ""
    last = header
    for segment in segments:
        for record, _ in read_records(segment.path):
            last = record or last
    if last["kind"] != "close":
        last = {"kind": "close", "status": "FAILED", "time_ms": now_ms(), "unless_ended": True}
        segments[-1].append(last)
    waiting = [segment for segment in segments if segment.acknowledged < segment.end]
    if waiting:
        ensure_store(workspace)  # the first run of a workspace may be one that is sent late
    sender = Sender(workspace, folder, header)
    with asking(workspace, unknown=f"the run of {folder} cannot be found in its store"):
        sent = sum(sender.send(segment) for segment in waiting)
    return sent, str(last["status"])
