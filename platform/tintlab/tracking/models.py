"""Which model is meant by a name, and where its files are."""

from dataclasses import dataclass
from pathlib import Path

from tintlab.config import Workspace


@dataclass(frozen=True)
class FoundModel:
    """A model folder with what is known about where it came from."""

    label: str
    """How to speak of it: `@champion (version 3)`, `run 5f1c...`, or the folder."""
    folder: Path
    run_id: str | None
    version: int | None
    cached: str | None = None
    """What a user should be told when the registry did not answer, and this is what the name meant
    when it last did; else None."""


def find_model(workspace: Workspace, name: str, offline_ok: bool = True) -> FoundModel:
    """The model meant by `@alias`, a version number, a run id, or the path of a model folder.

    Args: offline_ok: whether an alias or a version that was used before is found again while the
        registry does not answer; `FoundModel.cached` then says so.
    Raises: EnvironmentFault: the alias is not set, or the store does not answer. ConfigError: no
        such version or run, or the run logged no model. IntegrityError: its files were changed.
    """
    stored = name.startswith("@") or name.isdecimal()
    if not stored and Path(name).is_dir():
        return FoundModel(name, Path(name).absolute(), None, None)
    # A folder needs no MLflow, which takes seconds to import.
    from tintlab.tracking.stored_models import registered_model, run_model

    if stored:
        return registered_model(workspace, name, offline_ok)
    return FoundModel(f"run {name}", run_model(workspace, name), name, None)
