"""The files of a saved model, each verified before anything uses it; light, without torch.

    model.safetensors   the weights
    config.json         the whole ExperimentConfig
    manifest.json       {"format", "version", "files": {name: sha256}, "metadata"}

The manifest covers the weights and the config: they are the model, and the manifest's own SHA-256
is its name. Whatever else lies in the folder, a model card or a stranger's file, is never opened.
"""

import hashlib
import json
from pathlib import Path

from tintlab.errors import EnvironmentFault, IntegrityError

FORMAT = "tintlab-model"
VERSION = 2
"""2: the upsampler is guided by skip features."""
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MANIFEST = "manifest.json"


def read_verified(folder: Path) -> dict[str, bytes]:
    """The folder's files, each read once and checked against the manifest before anything uses it.

    Raises: EnvironmentFault: there is no such folder, or it cannot be read.
        IntegrityError: it is not a saved model, is of another format version, or a file is missing
            or is not what the manifest says.
    """
    if not folder.is_dir():
        raise EnvironmentFault(f"no saved model at {folder}: there is no such folder")
    files = _manifest_files(folder)
    contents = {}
    for name in (WEIGHTS, CONFIG):
        data = _read(folder / name)
        digest = sha256_of(data)
        if digest != files[name]:
            raise IntegrityError(
                f"{folder / name} is damaged or was changed: sha256 is {digest}, "
                f"the manifest says {files[name]}; copy or download the model again"
            )
        contents[name] = data
    return contents


def _manifest_files(folder: Path) -> dict[str, str]:
    file = folder / MANIFEST
    try:
        manifest = json.loads(_read(file))
        format_name, version = manifest["format"], manifest["version"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise IntegrityError(f"{file} is not the manifest of a {FORMAT} folder") from None
    if format_name != FORMAT:
        raise IntegrityError(f"{file}: format is {format_name!r}, must be {FORMAT!r}")
    if version != VERSION:
        raise IntegrityError(
            f"{file}: {FORMAT} version {version!r} is not version {VERSION}, "
            "the only one this tintlab reads; load it with the version that saved it"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or set(files) != {WEIGHTS, CONFIG}:
        raise IntegrityError(f"{file}: files must name exactly {WEIGHTS} and {CONFIG}")
    return files


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(
            f"{file} is missing: not a saved model, or saving was interrupted"
        ) from None
    except OSError as error:
        raise EnvironmentFault(f"cannot read {file}: {error.strerror}") from None


def sha256_of(data: bytes) -> str:
    """As the manifest has it."""
    return hashlib.sha256(data).hexdigest()
