"""The tracking store: SQLite in the workspace, or the server that MLFLOW_TRACKING_URI names.

Source: mlflow 3.17 `store/tracking/sqlalchemy_store.py` (a store migrates itself when first opened,
and two first openings at once migrate twice) and `store/db/utils.py`.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.db import utils as database

from tintlab.config import Workspace
from tintlab.errors import ConfigError, EnvironmentFault, TintlabError
from tintlab.redaction import redacted
from tintlab.tracking.locks import locked

CLIENT_DEFAULTS = {
    # The spool is the retry: MLflow's own 7 retries would hold the sender for 4 minutes after a
    # server is back. Requests that read or promote get two more tries, about 6 s.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # Standard output carries results only, and progress is shown by tintlab itself.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""What MLflow's client reads at each request, unless the user has set it."""

NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers when something is not there; the second for an alias or a malformed id."""


class StoreAway(EnvironmentFault):
    """The tracking store does not answer; what was fetched from it earlier may still do."""


def connect(workspace: Workspace) -> MlflowClient:
    """A client of the workspace's store; MLflow's global tracking URI is left alone.

    Raises: EnvironmentFault: the workspace is a URI and no tracking server is named.
    """
    for variable, value in CLIENT_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    uri = workspace.tracking_uri
    if uri.startswith("sqlite:") and "://" in uri.removeprefix("sqlite:///"):
        raise EnvironmentFault(
            f"the workspace {workspace.root} cannot hold a tracking database; "
            "set MLFLOW_TRACKING_URI to a tracking server"
        )
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_server(workspace: Workspace) -> bool:
    """Whether runs go to a tracking server, which keeps its own database and artefacts."""
    return workspace.tracking_uri.startswith(("http://", "https://"))


def ensure_store(workspace: Workspace) -> None:
    """Create or migrate the tracking database, once, whoever else is about to do the same.

    Call it before workers start. A tracking server looks after its own database: nothing is asked
    of it here, so that a training can start while the server is down.

    Raises: StoreAway: the database cannot be opened or is of a newer MLflow.
    """
    if is_server(workspace):
        return
    file = workspace.tracking_uri.removeprefix("sqlite:///")
    is_file = file != workspace.tracking_uri
    lock = Path(f"{file}.lock" if is_file else f"{workspace.root}/tracking.lock")
    chatter = logging.getLogger(
        "mlflow.store.db.utils"
    )  # "Creating initial MLflow database tables"
    level = chatter.level
    chatter.setLevel(logging.WARNING)
    try:
        with locked(lock):
            try:
                connect(workspace)  # a client opens its database when it is made
            except MlflowException as error:
                if "out-of-date database schema" not in str(error):
                    raise
                database._upgrade_db(
                    database.create_sqlalchemy_engine_with_retry(workspace.tracking_uri)
                )
                connect(workspace)
    except TintlabError:
        raise
    except Exception as error:
        raise StoreAway(
            f"cannot open the tracking database {workspace.tracking_uri}: {first_line(error)}; "
            "check the path, free space and that its MLflow is not newer than this one"
        ) from error
    finally:
        chatter.setLevel(level)


def experiment_id(client: MlflowClient, workspace: Workspace, name: str) -> str:
    """The id of the experiment of that name, created if nobody else has."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # A database on its own would put artefacts into the current folder; workers differ in it.
        location = None if is_server(workspace) else workspace.artifacts
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
            assert found is not None
    return str(found.experiment_id)


def has_store(workspace: Workspace) -> bool:
    """False where the tracking database would be a file and nobody has made it yet."""
    file = workspace.tracking_uri.removeprefix("sqlite:///")
    return file == workspace.tracking_uri or Path(file).exists()


@contextmanager
def asking(workspace: Workspace, unknown: str) -> Iterator[MlflowClient]:
    """A client whose errors become ours.

    Args: unknown: the message when what is asked for does not exist.
    Raises: ConfigError: it does not exist. StoreAway: the store does not answer. EnvironmentFault:
        it refuses, or nothing was ever tracked in this workspace; asking creates no database.
    """
    if not has_store(workspace):
        raise EnvironmentFault(
            f"nothing was trained in {workspace.root} yet: no {Path(workspace.tracking_uri).name}; "
            "run tintlab sweep or tintlab train first, or give --workspace"
        )
    try:
        ensure_store(workspace)
        yield connect(workspace)
    except TintlabError:
        raise
    except MlflowException as error:
        if error.error_code in NOT_THERE:
            raise ConfigError(unknown) from error
        uri = workspace.tracking_uri
        if isinstance(error, RestException) and error.get_http_status_code() < 500:
            raise EnvironmentFault(
                f"the tracking store {uri} refuses: {first_line(error)}; check your access to it"
            ) from error
        raise StoreAway(
            f"the tracking store {uri} does not answer: {first_line(error)}; "
            "check MLFLOW_TRACKING_URI and that its server runs"
        ) from error


def first_line(error: BaseException) -> str:
    """What went wrong, on one line, without the secrets that a URI may carry."""
    lines = redacted(str(error)).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
