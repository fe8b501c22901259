"""Where a run came from: code revision, uncommitted changes, installed packages, user."""

import getpass
import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

from mlflow.utils import mlflow_tags

import tintlab

GIT_TIMEOUT_S = 10.0
"""A work tree on a slow file system must not hold up a training."""


@cache
def source_tags() -> dict[str, str]:
    """MLflow's own tags for who started a run from what; a git revision only in a work tree."""
    tags = {
        mlflow_tags.MLFLOW_USER: _user(),
        mlflow_tags.MLFLOW_SOURCE_NAME: "tintlab",
        mlflow_tags.MLFLOW_SOURCE_TYPE: "LOCAL",
    }
    revision = _git("rev-parse", "HEAD")
    if revision:
        tags[mlflow_tags.MLFLOW_GIT_COMMIT] = revision.strip()
    branch = _git("rev-parse", "--abbrev-ref", "HEAD")
    if branch and branch.strip() != "HEAD":
        tags[mlflow_tags.MLFLOW_GIT_BRANCH] = branch.strip()
    return tags


@cache
def revision() -> str:
    """The code's git revision, with `+` if files were changed; empty outside a work tree."""
    found = (_git("rev-parse", "HEAD") or "").strip()
    return f"{found}+" if found and uncommitted_diff() else found


@cache
def environment() -> str:
    """The interpreter and every installed distribution, as `pip freeze` writes them."""
    names = {
        f"{found.metadata['Name']}=={found.version}" for found in importlib.metadata.distributions()
    }
    lines = sorted(names, key=str.lower)
    return "\n".join([f"# Python {platform.python_version()} on {platform.platform()}", *lines, ""])


@cache
def uncommitted_diff() -> str:
    """Changes to tracked files since the revision; empty outside a work tree."""
    return _git("diff", "HEAD") or ""


def _code_folder() -> Path:
    package = Path(tintlab.__file__).resolve().parent
    # Installed from a wheel, the code of the experiment is where the command was started.
    return Path.cwd() if "site-packages" in package.parts else package


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_code_folder()), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here, or no answer: not a work tree to us
        return None
    return done.stdout if done.returncode == 0 else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        return "unknown"
