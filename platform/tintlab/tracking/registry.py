"""The model registry: numbered versions of one model, and the aliases that point at them.

A version's files are plain artefacts of its run, verified by hash whenever they are fetched. The
hash of the model's manifest names the model: registering it again gives the same version. Beside
them lie what MLflow is told (`mlmodel.py`) and the model card; neither is part of the model, and
none of our code reads them.

    @champion      the version that is used
    @challenger    the last candidate that was judged and is not the champion
    @previous      the version that a rollback goes back to
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tintlab.config import Workspace, parsed
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, IntegrityError
from tintlab.model.artifact_files import CONFIG, MANIFEST, WEIGHTS, read_verified
from tintlab.tracking.locks import locked
from tintlab.tracking.mlmodel import MLMODEL, write_description
from tintlab.tracking.reading import download_file, unknown_run
from tintlab.tracking.spool import spool_root
from tintlab.tracking.store import NOT_THERE, asking

MODEL = "colorizer"
"""The registered model's name, unless another is given."""

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

LOGGED = "model"
"""Folder of the model that a training logs, among its run's artefacts."""

SHA256_TAG = "tintlab.model_sha256"
"""Tag of a version: the SHA-256 of its manifest.json, which has those of all other files."""

CARD = "model_card.md"
"""Beside the model's files, for people. Not in the manifest: a model that is measured again gets
another card and is still the same model."""

DESCRIPTION_CHARACTERS = 5000
"""Longest description that every database of MLflow takes (mlflow 3.17, SqlModelVersion)."""


@dataclass(frozen=True)
class Version:
    """One registered version of a model."""

    version: int
    run_id: str
    model_sha256: str
    aliases: tuple[str, ...]
    name: str = MODEL
    path: str = LOGGED
    """Folder of the files among the run's artefacts."""


def register(
    workspace: Workspace,
    run_id: str,
    model_folder: Path,
    name: str = MODEL,
    card: str = "",
    on_step: Callable[[str], None] = lambda step: None,
) -> Version:
    """Register the saved model in `model_folder` as one of this run's; safe to repeat or interrupt.

    Args: card: what people should know of it; becomes its description, too. on_step: told what has
        just been done.
    Raises: ConfigError: no such run. IntegrityError: the folder is not a whole saved model.
    """
    read_verified(model_folder)
    sha256 = model_sha256(model_folder)
    with (
        locked(_lock(workspace)),
        asking(workspace, unknown_run(workspace, run_id)) as client,
    ):
        known = _by_hash(client, name, sha256)
        if known is not None:
            version = known
        else:
            path = _upload(client, run_id, model_folder, sha256, on_step)
            _create_name(client, name)
            # Last, so that a version never points at files that are not all there.
            created = client.create_model_version(
                name,
                source=f"{client.get_run(run_id).info.artifact_uri}/{path}",
                run_id=run_id,
                tags={SHA256_TAG: sha256},
                await_creation_for=0,  # the files are there already
            )
            version = _version(created)
            on_step("version created")
        if card:
            _describe(client, version, card)
        return version


def set_alias(workspace: Workspace, version: Version, alias: str = CHAMPION) -> None:
    """Point an alias at a version, taking it from the one that had it.

    Raises: ConfigError: the version does not exist or the alias is one MLflow reserves.
        ConflictError: another machine pointed it elsewhere in this moment.
    """
    unknown = f"cannot name version {version.version} of {version.name} {alias!r}"
    with asking(workspace, unknown) as client:
        client.set_registered_model_alias(version.name, alias, str(version.version))
    # MLflow has no compare-and-set; where the lock does not reach, this at least sees the other.
    now = by_alias(workspace, alias, version.name)
    if now is None or now.version != version.version:
        other = f"version {now.version}" if now else "no version"
        raise ConflictError(
            f"@{alias} was set to version {version.version} and is {other} now: somebody else "
            "moves it as well; look at tintlab models, then run the same command again"
        )


def remove_alias(workspace: Workspace, alias: str, name: str = MODEL) -> None:
    """Take an alias away from the version that has it, if one does."""
    if by_alias(workspace, alias, name) is not None:
        with asking(workspace, f"@{alias} of {name} cannot be removed") as client:
            client.delete_registered_model_alias(name, alias)


def aliases(workspace: Workspace, name: str = MODEL) -> dict[str, int]:
    """Every alias of a model, with its version; empty if nothing was registered."""
    with asking(workspace, f"{name} cannot be read from {workspace.tracking_uri}") as client:
        try:
            found = client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            return {}
    return {str(alias): int(version) for alias, version in found.items()}


def champion(workspace: Workspace, name: str = MODEL) -> Version | None:
    """The version that @champion points at, if any."""
    return by_alias(workspace, CHAMPION, name)


def version_of(workspace: Workspace, reference: str, name: str = MODEL) -> Version:
    """The version of a reference: an alias such as `@champion`, or a number such as `3`.

    Raises: EnvironmentFault: the alias is not set. ConfigError: there is no such version.
    """
    wanted = reference.removeprefix("@")
    if re.fullmatch(r"[0-9]+", wanted):
        return numbered(workspace, int(wanted), name)
    found = by_alias(workspace, wanted, name)
    if found is None:
        there = ", ".join(f"@{alias}" for alias in sorted(aliases(workspace, name)))
        advice = (
            f"there are {there}" if there else "promote a run first: tintlab promote --run RUN_ID"
        )
        raise EnvironmentFault(
            f"@{wanted} of {name} is not set in {workspace.tracking_uri}; {advice}"
        )
    return found


def download(workspace: Workspace, version: Version) -> Path:
    """The folder of a version's model on this machine, fetched once and verified every time.

    Only the files a model consists of are fetched, whatever else lies beside them.

    Raises: IntegrityError: a file is not what was registered.
    """
    what = f"version {version.version}"
    return fetch(workspace, version.run_id, version.path, version.model_sha256, what)


def fetch(workspace: Workspace, run_id: str, path: str, sha256: str, what: str) -> Path:
    """The model among a run's artefacts whose manifest has this SHA-256, on this machine.

    Args: path: the folder it is in there. what: how to speak of it.
    Raises: see `download`.
    """
    cached = cache(workspace) / sha256
    with locked(cached.with_suffix(".lock")):
        if not cached.exists():
            partial = Path(tempfile.mkdtemp(prefix=".fetching-", dir=cached.parent))
            unknown = f"run {run_id}, which made {what}, is gone"
            try:
                with asking(workspace, unknown) as client:
                    for name in (WEIGHTS, CONFIG, MANIFEST):
                        with tempfile.TemporaryDirectory() as scratch:  # stores nest it differently
                            found = download_file(client, run_id, f"{path}/{name}", Path(scratch))
                            shutil.copyfile(found, partial / name)
                _verify(partial, sha256, what, f"restore {path} of run {run_id}")
                partial.rename(cached)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            return cached
    _verify(cached, sha256, what, f"remove {cached} to fetch it again")
    return cached


def _verify(folder: Path, sha256: str, what: str, advice: str) -> None:
    found = _sha256(folder / MANIFEST) if (folder / MANIFEST).exists() else "missing"
    if found != sha256:
        raise IntegrityError(
            f"{folder / MANIFEST} is not the one registered as {what}: "
            f"sha256 must be {sha256}, got {found}; {advice}"
        )
    try:
        read_verified(folder)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {advice}") from None


def _upload(
    client: MlflowClient, run_id: str, folder: Path, sha256: str, on_step: Callable[[str], None]
) -> str:
    """Put the model among the run's artefacts; returns the folder it is in there."""
    there = {file.path: file.file_size for file in client.list_artifacts(run_id, LOGGED)}
    path = LOGGED
    with tempfile.TemporaryDirectory() as scratch:
        if f"{LOGGED}/{MANIFEST}" in there:
            kept = download_file(client, run_id, f"{LOGGED}/{MANIFEST}", Path(scratch))
            if _sha256(kept) != sha256:  # another model of this run, which a version may point at
                path, there = f"{LOGGED}-{sha256[:12]}", {}
        if f"{path}/{MLMODEL}" not in there:
            description = Path(scratch) / "description"
            description.mkdir()
            config = parsed(json.loads((folder / CONFIG).read_text()), str(folder / CONFIG))
            write_description(description, run_id, path, config.evaluation.temperature)
            client.log_artifacts(run_id, str(description), path)
            on_step("described")
    for name in (WEIGHTS, CONFIG, MANIFEST):  # the manifest last: where it is, the rest is
        if there.get(f"{path}/{name}") != (folder / name).stat().st_size:
            client.log_artifact(run_id, str(folder / name), path)
            on_step(f"{name} uploaded")
    return path


def _describe(client: MlflowClient, version: Version, card: str) -> None:
    """Put the card beside the model, and into the registry's own page of it."""
    note = f"\n\n(shortened; the whole is `{version.path}/{CARD}` of the run)"
    short = card
    if len(card) > DESCRIPTION_CHARACTERS:
        short = card[: DESCRIPTION_CHARACTERS - len(note)] + note
    if client.get_model_version(version.name, str(version.version)).description != short:
        client.log_text(version.run_id, card, f"{version.path}/{CARD}")
        client.update_model_version(version.name, str(version.version), description=short)


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


def by_alias(workspace: Workspace, alias: str, name: str = MODEL) -> Version | None:
    """The version that an alias points at, if any."""
    unknown = f"{name}@{alias} cannot be read from {workspace.tracking_uri}"
    with asking(workspace, unknown) as client:
        try:
            found = client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            return None  # no such model or no such alias yet
        return _version(found)


def numbered(workspace: Workspace, version: int, name: str = MODEL) -> Version:
    """The version of that number.

    Raises: ConfigError: there is none, or it is not ours.
    """
    with asking(workspace, f"{name} has no version {version} in {workspace.tracking_uri}") as it:
        return _version(it.get_model_version(name, str(version)))


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


def model_sha256(folder: Path) -> str:
    """What names the model in a folder: the SHA-256 of its manifest, which has all others."""
    return _sha256(folder / MANIFEST)


def cache(workspace: Workspace) -> Path:
    """Where fetched models are kept: beside the spool when the workspace is not a folder."""
    root = Path(workspace.root) if workspace.is_local else spool_root(workspace)
    return root / "cache" / "models"


def _lock(workspace: Workspace) -> Path:
    return cache(workspace) / "register.lock"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
