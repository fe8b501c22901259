"""The audit log of a registry: who moved @champion, when, from which version to which, and why.

    <workspace>/registry/audit.jsonl     append-only, one checksummed line for each step

An entry has two lines: what is about to be done, written before it is done, and how it ended. An
entry without its second line was interrupted; whoever moves an alias next ends it (`promotion.py`).
A refusal changes nothing and has one line. Each ended entry is a tag of its version, too, so that a
tracking server keeps it. The form of a line is the spool's: a checksum, a space, JSON.
"""

import json
import logging
import os
import secrets
import socket
import zlib
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.utils import mlflow_tags

from tintlab.config import Workspace
from tintlab.data.storage import sync_to_disk
from tintlab.errors import EnvironmentFault
from tintlab.redaction import redacted_tree
from tintlab.tracking import provenance
from tintlab.tracking.spool import read_records, spool_root

logger = logging.getLogger(__name__)

TAG = "tintlab.audit."
"""Tags of a version begin with this; the entry's id follows."""

Kind = Literal["promotion", "refusal", "rollback"]
State = Literal["intended", "done", "abandoned"]


@dataclass(frozen=True)
class Entry:
    """One promotion, refusal or rollback."""

    kind: Kind
    model: str
    run_id: str
    """Run of the version that was judged or taken back to."""
    version: int
    """That version."""
    champion: int | None
    """Version that was @champion before."""
    previous: int | None
    """Version that was @previous before."""
    previous_after: int | None
    """Version that is @previous once it is done."""
    model_sha256: str
    data: str | None = None
    """Fingerprint of the photos that it was judged on."""
    policy_sha256: str | None = None
    rules: list[dict[str, Any]] = field(default_factory=list)
    """The verdict, rule by rule."""
    forced: bool = False
    reason: str = ""
    """Why it was forced, or taken back."""
    id: str = ""
    who: str = ""
    machine: str = ""
    when: str = ""
    state: State = "intended"
    note: str = ""
    """How an interrupted entry was ended."""


def signed(entry: Entry) -> Entry:
    """The entry with its id, the user, the machine and the time."""
    now = datetime.now(UTC)
    return replace(
        entry,
        id=f"{now:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}",  # sorts by time
        who=provenance.source_tags()[mlflow_tags.MLFLOW_USER],
        machine=socket.gethostname(),
        when=now.isoformat(timespec="seconds"),
    )


def log_file(workspace: Workspace) -> Path:
    """Where the log is: beside the spool when the workspace is not a folder."""
    return registry_folder(workspace) / "audit.jsonl"


def registry_folder(workspace: Workspace) -> Path:
    """What this machine keeps of the registry: the log and the lock."""
    root = Path(workspace.root) if workspace.is_local else spool_root(workspace)
    return root / "registry"


def write(workspace: Workspace, entry: Entry) -> None:
    """Add a line, and wait until the disk has it; the caller holds the registry's lock.

    Raises: EnvironmentFault: the file cannot be written.
    """
    file = log_file(workspace)
    body = json.dumps(redacted_tree(asdict(entry)), separators=(",", ":")).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # A torn end is a line that was never made; without it, lines can follow.
            os.ftruncate(descriptor, max((end for _, end in read_records(file)), default=0))
            os.write(descriptor, b"%08x %s\n" % (zlib.crc32(body), body))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_to_disk(file.parent)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write {file}: {error.strerror}; nothing is promoted or rolled back without a "
            "record of it, so free some space or choose a workspace that can be written"
        ) from None


def read(workspace: Workspace) -> list[Entry]:
    """All entries, oldest first, each as its last line has it; warns of damaged lines."""
    file = log_file(workspace)
    if not file.exists():
        return []
    entries: dict[str, Entry] = {}
    for number, (record, _) in enumerate(read_records(file), start=1):
        if record is None:
            logger.warning("line %d of %s is damaged: its checksum does not match", number, file)
            continue
        entries[record["id"]] = Entry(**record)
    return list(entries.values())


def tag(client: MlflowClient, entry: Entry) -> None:
    """Write an ended entry to its version."""
    value = json.dumps(redacted_tree(asdict(entry)), separators=(",", ":"))
    client.set_model_version_tag(entry.model, str(entry.version), f"{TAG}{entry.id}", value)


def tagged(tags: dict[str, str]) -> list[Entry]:
    """The entries in the tags of a version, oldest first."""
    found = [Entry(**json.loads(value)) for name, value in tags.items() if name.startswith(TAG)]
    return sorted(found, key=lambda entry: entry.id)
