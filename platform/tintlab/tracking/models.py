"""Which model is meant by a name, and where its files are."""

from dataclasses import dataclass
from pathlib import Path

from tintlab.config import Workspace
from tintlab.errors import ConfigError
from tintlab.tracking.registry import download, version_of
from tintlab.tracking.store import asking


@dataclass(frozen=True)
class FoundModel:
    """A model folder with what is known about where it came from."""

    label: str
    """How to speak of it: `@champion (version 3)`, `run 5f1c...`, or the folder."""
    folder: Path
    run_id: str | None
    version: int | None


def find_model(workspace: Workspace, name: str) -> FoundModel:
    """The model meant by `@alias`, a version number, a run id, or the path of a model folder.

    Raises: EnvironmentFault: the alias is not set, or the store does not answer. ConfigError: no
        such version or run, or the run logged no model. IntegrityError: its files were changed.
    """
    if name.startswith("@") or name.isdecimal():
        version = version_of(workspace, name.removeprefix("@"))
        label = f"{name} (version {version.version})" if name.startswith("@") else f"version {name}"
        return FoundModel(label, download(workspace, version), version.run_id, version.version)
    if Path(name).is_dir():
        return FoundModel(name, Path(name).absolute(), None, None)
    return FoundModel(f"run {name}", run_model(workspace, name), name, None)


def run_model(workspace: Workspace, run_id: str) -> Path:
    """The model folder that a run logged.

    Raises: ConfigError: no such run, or it logged no model, as one that did not finish.
    """
    unknown = (
        f"no run, version, alias or folder {run_id!r} in {workspace.tracking_uri}; "
        "tintlab sweep and tintlab train print the ids of their runs"
    )
    with asking(workspace, unknown) as client:
        run = client.get_run(run_id)
        if not client.list_artifacts(run_id, "model"):
            raise ConfigError(
                f"run {run_id} ({run.info.status}) has no model; only a finished training logs one"
            )
        cache = Path(workspace.root) / "cache" / run_id
        cache.mkdir(parents=True, exist_ok=True)
        return Path(client.download_artifacts(run_id, "model", str(cache)))
