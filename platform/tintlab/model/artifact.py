"""A saved model: a folder that any machine verifies and loads without executing anything in it.

What is in it: `artifact_files`.

A folder appears whole or not at all: it is written beside its place, synced and renamed. Where a
model is replaced there is no folder for the moment between two renames, and never a mixed one.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tintlab.config import ExperimentConfig, parsed, to_json
from tintlab.data.storage import sync_to_disk
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, IntegrityError
from tintlab.model.artifact_files import (
    CONFIG,
    FORMAT,
    MANIFEST,
    VERSION,
    WEIGHTS,
    read_verified,
    sha256_of,
)
from tintlab.model.colorizer import Colorizer


def save_model(
    model: Colorizer,
    config: ExperimentConfig,
    folder: Path,
    metadata: dict[str, Any] | None = None,
) -> str:
    """Save the model as `folder`, replacing a model that is already there; the manifest's sha256.

    Args: metadata: anything JSON can hold; kept in the manifest, not interpreted.
    Raises: ConflictError: `folder` holds something that is not a saved model.
        EnvironmentFault: the folder cannot be written.
    """
    if (model.model_config, model.bins_config) != (config.model, config.bins):
        raise ValueError("save_model: the config is not the one this model was built from")
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    contents = {WEIGHTS: safetensors.torch.save(tensors), CONFIG: to_json(config).encode()}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "files": {name: sha256_of(data) for name, data in contents.items()},
        "metadata": metadata or {},
    }
    contents[MANIFEST] = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
    try:
        _write_folder(folder, contents)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot save the model as {folder}: {error.strerror}; "
            "choose a folder that can be written, on a disk with room"
        ) from None
    return sha256_of(contents[MANIFEST])


def load_model(folder: Path) -> tuple[Colorizer, ExperimentConfig]:
    """The model saved as `folder`, on the CPU in evaluation mode, and its config.

    Raises: EnvironmentFault: there is no such folder, or it cannot be read.
        IntegrityError: it is not a saved model, is of another format version, a file is missing or
            is not what the manifest says, or the weights do not fit the config.
    """
    contents = read_verified(folder)
    config = _parsed_config(contents[CONFIG], folder)
    try:
        tensors = safetensors.torch.load(contents[WEIGHTS])
    except SafetensorError as error:
        raise IntegrityError(f"{folder / WEIGHTS} is not a safetensors file: {error}") from None
    # The initial weights are replaced, so building must not disturb the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        model = Colorizer(config.model, config.bins)
    load_weights(model, tensors, source=str(folder / WEIGHTS))
    return model.eval(), config


def load_config(folder: Path) -> ExperimentConfig:
    """The config of the model saved as `folder`, without building the model.

    Raises: see `load_model`.
    """
    return _parsed_config(read_verified(folder)[CONFIG], folder)


def _parsed_config(content: bytes, folder: Path) -> ExperimentConfig:
    try:
        return parsed(json.loads(content), source=str(folder / CONFIG))
    except (ConfigError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise IntegrityError(
            f"{folder}: this tintlab cannot read the model's {CONFIG}: {error}; "
            "load it with the version that saved it"
        ) from None


def load_weights(model: Colorizer, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a model that was built from their config.

    Args: source: names where they came from, for the message.
    Raises: IntegrityError: they are another architecture's; the first difference is named.
    """
    difference = first_difference(model.state_dict(), tensors)
    if difference is not None:
        raise IntegrityError(
            f"{source} holds the weights of another architecture: {difference}; "
            "use the config it was saved with"
        )
    model.load_state_dict(dict(tensors))


def first_difference(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str | None:
    """The first tensor, in the model's own order, that is missing or shaped otherwise; else the
    first unknown one by name."""
    for name, tensor in expected.items():
        if name not in got:
            return f"{name} {_described(tensor)} is missing"
        if _described(tensor) != _described(got[name]):
            return f"{name} must be {_described(tensor)}, got {_described(got[name])}"
    unknown = sorted(set(got) - set(expected))  # a safetensors file has no order of its own
    if unknown:
        return f"{unknown[0]} {_described(got[unknown[0]])} is unknown to this config"
    return None


def _write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    """Write all files beside `folder`, then rename them into place together."""
    if folder.exists() and not (folder.is_dir() and _replaceable(folder)):
        raise ConflictError(f"{folder} exists and is not a saved model; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staged, replaced = beside / "new", beside / "old"
        staged.mkdir()
        for name, data in contents.items():
            with (staged / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_to_disk(staged)
        if folder.exists():
            folder.rename(replaced)
        try:
            staged.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
            raise
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or not any(folder.iterdir())


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
