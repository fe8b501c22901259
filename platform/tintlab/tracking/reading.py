"""Runs read back from the tracking store: config, metrics, children."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags

from tintlab.config import ExperimentConfig, Workspace, parsed
from tintlab.errors import ConfigError, IntegrityError
from tintlab.tracking.sender import find_run
from tintlab.tracking.store import asking

PAGE = 1000
"""Runs asked for at a time."""


class Point(NamedTuple):
    """One value of a metric."""

    step: int
    value: float
    time_ms: int


@dataclass(frozen=True)
class RunSummary:
    """A run as the store has it now."""

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def run_config(workspace: Workspace, run_id: str) -> ExperimentConfig:
    """The config a run logged.

    Raises: ConfigError: no such run, it logged no config, or one that this version refuses.
    """
    with (
        asking(workspace, unknown_run(workspace, run_id)) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        text = download_file(client, run_id, "config.json", Path(folder)).read_text()
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise IntegrityError(f"config.json of run {run_id} is not JSON: {error}") from None
    return parsed(tree, source=f"config of run {run_id}")


def run_summary(workspace: Workspace, run_id: str) -> RunSummary:
    """What the store has of a run.

    Raises: ConfigError: no such run.
    """
    with asking(workspace, unknown_run(workspace, run_id)) as client:
        return summary(client.get_run(run_id))


def run_metrics(workspace: Workspace, run_id: str) -> dict[str, float]:
    """The latest value of each metric of a run.

    Raises: ConfigError: no such run.
    """
    return run_summary(workspace, run_id).metrics


def metric_history(workspace: Workspace, run_id: str, key: str) -> list[Point]:
    """All values of a metric by step, then time; empty if the run has none of that name.

    Raises: ConfigError: no such run.
    """
    with asking(workspace, unknown_run(workspace, run_id)) as client:
        client.get_run(run_id)  # some stores answer an empty history for a run that does not exist
        history = client.get_metric_history(run_id, key)
    return sorted(
        (Point(found.step, found.value, found.timestamp) for found in history),
        key=lambda point: (point.step, point.time_ms),
    )


def children(workspace: Workspace, parent_run_id: str) -> list[RunSummary]:
    """The runs under a parent, oldest first: the trials of a sweep.

    Raises: ConfigError: no such parent.
    """
    found: list[RunSummary] = []
    with asking(workspace, unknown_run(workspace, parent_run_id)) as client:
        experiment = client.get_run(parent_run_id).info.experiment_id
        token = None
        while True:
            page = client.search_runs(
                [experiment],
                f"tags.`{mlflow_tags.MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}'",
                max_results=PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found.extend(summary(run) for run in page)
            token = page.token
            if not token:
                return found


def run_of(workspace: Workspace, experiment: str, identity: str) -> str | None:
    """The id of the run with this identity in the experiment of that name, if there is one."""
    with asking(workspace, f"no experiment {experiment} in {workspace.tracking_uri}") as client:
        found = client.get_experiment_by_name(experiment)
        return find_run(client, str(found.experiment_id), identity) if found else None


def summary(run: StoredRun) -> RunSummary:
    """MLflow's run entity as ours."""
    return RunSummary(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )


def unknown_run(workspace: Workspace, run_id: str) -> str:
    """The message for a run that does not exist."""
    return f"no run {run_id} in {workspace.tracking_uri}; list runs in the MLflow UI"


def download_file(client: MlflowClient, run_id: str, path: str, folder: Path) -> Path:
    """One artefact of a run, downloaded into `folder`.

    Raises: ConfigError: the run has no such artefact. MlflowException: there is no such run.
    """
    try:
        return Path(client.download_artifacts(run_id, path, str(folder)))
    except (MlflowException, OSError) as error:
        parent = path.rpartition("/")[0] or None
        if path not in {file.path for file in client.list_artifacts(run_id, parent)}:
            raise ConfigError(
                f"run {run_id} has logged no {path}; give a run that tintlab train or sweep made"
            ) from None
        raise error
