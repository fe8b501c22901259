"""Where the versions of a model came from: run, sweep, photos, code, and what was measured."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags

from tintlab.config import Workspace
from tintlab.tracking import audit
from tintlab.tracking.audit import Entry
from tintlab.tracking.reading import unknown_run
from tintlab.tracking.registry import MODEL, SHA256_TAG, aliases
from tintlab.tracking.store import NOT_THERE, asking

TEST_BITS = "test/bits_per_dim"
"""Metric of a run whose model was evaluated."""

PAGE = 200
"""Versions asked for at a time."""


@dataclass(frozen=True)
class Lineage:
    """What a run says of where its model came from; None where it says nothing."""

    run_id: str
    run_name: str | None = None
    sweep: str | None = None
    data: str | None = None
    """Fingerprint of the data set that was trained on."""
    photos: dict[str, int] | None = None
    """Of that data set, by split."""
    git_revision: str | None = None
    test_bits: float | None = None
    """Bits per dimension on the test split, of the last evaluation."""


@dataclass(frozen=True)
class Registered:
    """One version with everything the registry and its run know of it."""

    version: int
    aliases: tuple[str, ...]
    registered: str
    """When, as ISO 8601 in UTC."""
    model_sha256: str | None
    """None for a version that tintlab did not register."""
    lineage: Lineage
    history: list[Entry]
    """Promotions, refusals and rollbacks of it, oldest first."""


def lineage(workspace: Workspace, run_id: str) -> Lineage:
    """Where a run's model came from.

    Raises: ConfigError: no such run.
    """
    with asking(workspace, unknown_run(workspace, run_id)) as client:
        return _lineage(client.get_run(run_id))


def registered(workspace: Workspace, name: str = MODEL) -> list[Registered]:
    """All versions, the newest first; empty if there is none."""
    named: dict[int, list[str]] = {}
    for alias, version in aliases(workspace, name).items():
        named.setdefault(version, []).append(alias)
    with asking(workspace, f"{name} cannot be read from {workspace.tracking_uri}") as client:
        return [
            _registered(client, found, named.get(int(found.version), []))
            for found in _all_versions(client, name)
        ]


def history(versions: list[Registered]) -> list[Entry]:
    """What happened to all these versions, oldest first: as the store has it, so on any machine."""
    return sorted((entry for one in versions for entry in one.history), key=lambda entry: entry.id)


def _all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(
            f"name = '{name}'", PAGE, ["version_number DESC"], page_token=token
        )
        found.extend(page)
        token = page.token
        if not token:
            return found


def _registered(client: MlflowClient, found: ModelVersion, named: list[str]) -> Registered:
    when = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Registered(
        version=int(found.version),
        aliases=tuple(sorted(named)),
        registered=when.isoformat(timespec="seconds"),
        model_sha256=found.tags.get(SHA256_TAG),
        lineage=_of_run(client, str(found.run_id or "")),
        history=audit.tagged(found.tags),
    )


def _of_run(client: MlflowClient, run_id: str) -> Lineage:
    """What is left of it if the run is gone: its id."""
    try:
        return _lineage(client.get_run(run_id)) if run_id else Lineage("")
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return Lineage(run_id)


def _lineage(run: StoredRun) -> Lineage:
    data, photos = None, None
    for used in run.inputs.dataset_inputs if run.inputs else []:
        profile: dict[str, Any] = json.loads(used.dataset.profile or "{}")
        data = profile.pop("fingerprint", used.dataset.digest)
        photos = {split: count for split, count in profile.items() if isinstance(count, int)}
    return Lineage(
        run_id=run.info.run_id,
        run_name=run.info.run_name,
        sweep=run.data.tags.get("sweep_id"),
        data=data,
        photos=photos or None,
        git_revision=run.data.tags.get(mlflow_tags.MLFLOW_GIT_COMMIT),
        test_bits=run.data.metrics.get(TEST_BITS),
    )
