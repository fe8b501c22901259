"""The models that the tracking store holds: of an alias, of a version, of a run."""

import hashlib
import json
import tempfile
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from tintlab.config import Workspace
from tintlab.data.storage import resolve, written
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.model.artifact_files import MANIFEST
from tintlab.tracking.models import FoundModel
from tintlab.tracking.reading import download_file
from tintlab.tracking.registry import (
    LOGGED,
    Version,
    cache,
    download,
    fetch,
    model_sha256,
    version_of,
)
from tintlab.tracking.store import StoreAway, asking


def registered_model(workspace: Workspace, name: str, offline_ok: bool) -> FoundModel:
    """What an alias or a version number means, see `models.find_model`."""
    reference = name.removeprefix("@")
    memory = _memory(workspace, reference)
    notice = None
    try:
        version = version_of(workspace, reference)
    except StoreAway as error:
        if not offline_ok or not memory.exists():
            raise
        remembered = json.loads(memory.read_text())
        version = Version(**remembered["version"] | {"aliases": ()})
        notice = f"{error}; using version {version.version}, which {name} was {remembered['when']}"
    except EnvironmentFault:  # the alias was removed
        memory.unlink(missing_ok=True)
        raise
    label = f"{name} (version {version.version})" if name.startswith("@") else f"version {name}"
    folder = download(workspace, version)
    if notice is None:
        _remember(memory, version)
    return FoundModel(label, folder, version.run_id, version.version, notice)


def _memory(workspace: Workspace, reference: str) -> Path:
    """Where it is kept what a reference meant; another registry's is another file."""
    key = hashlib.sha256(f"{workspace.tracking_uri}\n{reference}".encode()).hexdigest()[:16]
    return cache(workspace) / "resolved" / f"{key}.json"


def _remember(memory: Path, version: Version) -> None:
    """Keep what a reference means; its files are in the cache already."""
    when = datetime.now().astimezone().isoformat(" ", "minutes")
    with written(*resolve(str(memory))) as file:
        file.write(json.dumps({"version": asdict(version), "when": when}).encode())


def run_model(workspace: Workspace, run_id: str) -> Path:
    """The model folder that a run logged, on this machine; verified.

    Raises: ConfigError: no such run, or it logged no model, as one that did not finish.
        IntegrityError: a file is not what the run logged.
    """
    unknown = (
        f"no run, version, alias or folder {run_id!r} in {workspace.tracking_uri}; "
        "tintlab sweep and tintlab train print the ids of their runs"
    )
    with asking(workspace, unknown) as client, tempfile.TemporaryDirectory() as scratch:
        run = client.get_run(run_id)
        if not client.list_artifacts(run_id, LOGGED):
            raise ConfigError(
                f"run {run_id} ({run.info.status}) has no model; only a finished training logs one"
            )
        manifest = download_file(client, run_id, f"{LOGGED}/{MANIFEST}", Path(scratch))
        sha256 = model_sha256(manifest.parent)
    return fetch(workspace, run_id, LOGGED, sha256, f"the model of run {run_id}")
