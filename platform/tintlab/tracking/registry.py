"""The model registry: numbered versions of one model, and the aliases that point at them.

A version's files are plain artefacts of its run, verified by hash whenever they are fetched. The
hash of the model's manifest names the model: registering it again gives the same version.
"""

import hashlib
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from tintlab.config import Workspace
from tintlab.errors import ConfigError, EnvironmentFault, IntegrityError
from tintlab.model.artifact import CONFIG, MANIFEST, WEIGHTS, read_verified
from tintlab.tracking.locks import locked
from tintlab.tracking.reading import download_file, unknown_run
from tintlab.tracking.spool import spool_root
from tintlab.tracking.store import NOT_THERE, asking

MODEL = "colorizer"
"""The registered model's name, unless another is given."""

CHAMPION = "champion"
"""The alias of the version that is used."""

SHA256_TAG = "tintlab.model_sha256"
"""Tag of a version: the SHA-256 of its manifest.json, which has those of all other files."""

PYFUNC_LOADER = "tintlab.tracking.pyfunc_model"
"""The installed module by which `mlflow.pyfunc` loads a version; no code is kept with the model."""


@dataclass(frozen=True)
class Version:
    """One registered version of a model."""

    version: int
    run_id: str
    model_sha256: str
    aliases: tuple[str, ...]
    name: str = MODEL
    path: str = "model"
    """Folder of the files among the run's artefacts."""


def register(workspace: Workspace, run_id: str, model_folder: Path, name: str = MODEL) -> Version:
    """Register the saved model in `model_folder` as one of this run's; safe to repeat or interrupt.

    Raises: ConfigError: no such run. IntegrityError: the folder is not a whole saved model.
    """
    read_verified(model_folder)
    sha256 = _sha256(model_folder / MANIFEST)
    with (
        locked(_lock(workspace)),
        asking(workspace, unknown_run(workspace, run_id)) as client,
    ):
        known = _by_hash(client, name, sha256)
        if known is not None:
            return known
        path = _upload(client, run_id, model_folder, sha256)
        _create_name(client, name)
        # Last, so that a version never points at files that are not all there.
        created = client.create_model_version(
            name,
            source=f"{client.get_run(run_id).info.artifact_uri}/{path}",
            run_id=run_id,
            tags={SHA256_TAG: sha256},
            await_creation_for=0,  # the files are there already
        )
        return _version(created)


def set_alias(workspace: Workspace, version: Version, alias: str = CHAMPION) -> None:
    """Point an alias at a version, taking it from the one that had it.

    Raises: ConfigError: the version does not exist or the alias is one MLflow reserves.
    """
    unknown = f"cannot name version {version.version} of {version.name} {alias!r}"
    with asking(workspace, unknown) as client:
        client.set_registered_model_alias(version.name, alias, str(version.version))


def champion(workspace: Workspace, name: str = MODEL) -> Version | None:
    """The version that @champion points at, if any."""
    return _by_alias(workspace, name, CHAMPION)


def version_of(workspace: Workspace, reference: str, name: str = MODEL) -> Version:
    """The version of a reference: an alias such as `@champion`, or a number such as `3`.

    Raises: EnvironmentFault: the alias is not set. ConfigError: there is no such version.
    """
    wanted = reference.removeprefix("@")
    if re.fullmatch(r"[0-9]+", wanted):
        unknown = f"{name} has no version {wanted} in {workspace.tracking_uri}"
        with asking(workspace, unknown) as client:
            return _version(client.get_model_version(name, wanted))
    found = _by_alias(workspace, name, wanted)
    if found is None:
        raise EnvironmentFault(
            f"@{wanted} of {name} is not set in {workspace.tracking_uri}; "
            "promote a run first: tintlab promote --run RUN_ID"
        )
    return found


def download(workspace: Workspace, version: Version) -> Path:
    """The folder of a version's model on this machine, fetched once and verified every time.

    Only the files a model consists of are fetched, whatever else lies beside them.

    Raises: IntegrityError: a file is not what was registered.
    """
    cached = _cache(workspace) / version.model_sha256
    with locked(cached.with_suffix(".lock")):
        if not cached.exists():
            partial = Path(tempfile.mkdtemp(prefix=".fetching-", dir=cached.parent))
            unknown = f"run {version.run_id}, which made version {version.version}, is gone"
            try:
                with asking(workspace, unknown) as client:
                    for name in (WEIGHTS, CONFIG, MANIFEST):
                        path = f"{version.path}/{name}"
                        with tempfile.TemporaryDirectory() as scratch:  # stores nest it differently
                            fetched = download_file(client, version.run_id, path, Path(scratch))
                            shutil.copyfile(fetched, partial / name)
                _verify(partial, version, f"restore {version.path} of run {version.run_id}")
                partial.rename(cached)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            return cached
    _verify(cached, version, f"remove {cached} to fetch it again")
    return cached


def _verify(folder: Path, version: Version, advice: str) -> None:
    found = _sha256(folder / MANIFEST) if (folder / MANIFEST).exists() else "missing"
    if found != version.model_sha256:
        raise IntegrityError(
            f"{folder / MANIFEST} is not the one registered as version {version.version}: "
            f"sha256 must be {version.model_sha256}, got {found}; {advice}"
        )
    try:
        read_verified(folder)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {advice}") from None


def _upload(client: MlflowClient, run_id: str, folder: Path, sha256: str) -> str:
    """Put the model among the run's artefacts; returns the folder it is in there."""
    names = (WEIGHTS, CONFIG, MANIFEST)  # the manifest last: where it is, the rest is
    there = {file.path: file.file_size for file in client.list_artifacts(run_id, "model")}
    path = "model"
    if f"model/{MANIFEST}" in there:
        with tempfile.TemporaryDirectory() as scratch:
            kept = download_file(client, run_id, f"model/{MANIFEST}", Path(scratch))
            if _sha256(kept) != sha256:  # another model of this run, which a version may point at
                path, there = f"model-{sha256[:12]}", {}
    for name in names:
        if there.get(f"{path}/{name}") != (folder / name).stat().st_size:
            client.log_artifact(run_id, str(folder / name), path)
    description = Model(run_id=run_id)
    description.add_flavor(
        "python_function", loader_module=PYFUNC_LOADER, python_version=platform.python_version()
    )
    client.log_text(run_id, description.to_yaml(), f"{path}/MLmodel")
    return path


def _create_name(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _by_hash(client: MlflowClient, name: str, sha256: str) -> Version | None:
    found = client.search_model_versions(
        f"name = '{name}' and tags.`{SHA256_TAG}` = '{sha256}'", order_by=["version_number ASC"]
    )
    # The search does not fill in aliases in every store; reading the version does.
    return _version(client.get_model_version(name, str(found[0].version))) if found else None


def _by_alias(workspace: Workspace, name: str, alias: str) -> Version | None:
    unknown = f"{name}@{alias} cannot be read from {workspace.tracking_uri}"
    with asking(workspace, unknown) as client:
        try:
            found = client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            return None  # no such model or no such alias yet
        return _version(found)


def _version(found: ModelVersion) -> Version:
    if SHA256_TAG not in found.tags:
        raise ConfigError(
            f"version {found.version} of {found.name} was not registered by tintlab; "
            "use tintlab promote --run RUN_ID"
        )
    return Version(
        version=int(found.version),
        run_id=str(found.run_id),
        model_sha256=found.tags[SHA256_TAG],
        aliases=tuple(sorted(str(alias) for alias in found.aliases)),
        name=found.name,
        path=str(found.source).rstrip("/").rpartition("/")[2],
    )


def _cache(workspace: Workspace) -> Path:
    """Where fetched models are kept: beside the spool when the workspace is not a folder."""
    root = Path(workspace.root) if workspace.is_local else spool_root(workspace)
    return root / "cache" / "models"


def _lock(workspace: Workspace) -> Path:
    return _cache(workspace) / "register.lock"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
