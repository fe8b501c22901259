"""Checkpoints: everything training needs to go on as if it had never stopped.

    step-00000100/
        weights.safetensors     the model's state_dict
        ema.safetensors         the state_dict of the averaged model, which is what is evaluated
        optimizer.safetensors   AdamW's moments: exp_avg.NAME, exp_avg_sq.NAME and step.NAME
        state.json              State: steps done, data position, metrics, the whole configuration
        manifest.json           format, version, the SHA-256 and bytes of the four files above, and
                                the SHA-256 of the manifest itself

No file holds the state of a random generator: the loop draws everything from (seed, position), so
the position is the state, for any number of workers.

A checkpoint is written beside its final name, synced, and renamed, so that one which has the name
is whole; what a disk then does to it is found by its hashes before anything in it is used. Nothing
here executes what it reads. Equal content has equal bytes.

A damaged checkpoint gives way to an older one. One of another version is no damage: it is neither
passed over nor replaced. A manifest of any version holds its own hash, so that a flipped bit in the
version is told from another version.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors.torch
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from tintlab.config import ExperimentConfig
from tintlab.data.storage import sync_to_disk
from tintlab.errors import EnvironmentFault, IntegrityError
from tintlab.model.colorizer import Colorizer
from tintlab.settings import Settings
from tintlab.training.checkpoint_choice import (
    OtherVersion,
    in_order,
    newest_intact,
    superseded,
    warn_damaged,
)
from tintlab.training.workers import Tensors, fill

FORMAT = "tintlab-checkpoint"
VERSION = 3
"""3: weights of the model format 2."""

WEIGHTS = "weights.safetensors"
EMA = "ema.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
CONTENT = (WEIGHTS, EMA, OPTIMIZER, STATE)
"""Everything but the manifest, which is written last."""


class SinceReport(Settings):
    """Exact sums over the photos of all workers since the last report."""

    totals: dict[str, float] = Field(default_factory=dict)
    """Of the loss and its terms."""
    images: int = 0
    """Photos in these sums."""
    seconds: float = 0.0
    """Time their steps took, and those of steps that were left out."""
    images_timed: int = 0
    """Photos of all these steps."""

    @property
    def images_per_s(self) -> float:
        """Over all workers."""
        return self.images_timed / self.seconds

    def metrics(self) -> dict[str, float]:
        """Means over photos, named train/..., and perf/images_per_s."""
        means = {f"train/{term}": total / self.images for term, total in self.totals.items()}
        return {**means, "perf/images_per_s": self.images_per_s}


class State(Settings):
    """What a checkpoint knows besides its tensors."""

    model_config = ConfigDict(ser_json_inf_nan="strings")  # JSON has no infinity; a PSNR may be one

    step: int
    """Optimizer steps done."""
    images_seen: int
    """Photos of the infinite training stream consumed, over all workers: the data position."""
    data_fingerprint: str
    """Which data set that stream is of."""
    metrics: dict[str, float]
    """What was reported when the checkpoint was written."""
    config: ExperimentConfig
    """The whole experiment."""
    skipped_steps: int = 0
    """Steps left out because something in them was not finite."""
    overflowed_steps: int = 0
    """fp16: those of them that had gradients too large for its range, which is expected."""
    loss_scale: float = 1.0
    """fp16: the factor of the loss."""
    steps_at_loss_scale: int = 0
    """fp16: steps since that factor last changed."""
    since_report: SinceReport = SinceReport()
    """What the next report will have to count; empty in a checkpoint that belongs to a report."""


class FileRecord(Settings):
    """One file of a checkpoint."""

    sha256: str
    """SHA-256 of the file's bytes, lower-case hexadecimal."""
    bytes: int
    """Length of the file."""


class Manifest(Settings):
    """What must be in a checkpoint's folder, byte for byte."""

    format: Literal["tintlab-checkpoint"]
    """Whose file this is."""
    version: Literal[3]
    """Format version."""
    sha256: str
    """SHA-256 of all this but itself, as JSON with sorted keys."""
    files: dict[str, FileRecord]
    """Every file beside the manifest, by name."""


class Checkpoints:
    """The checkpoints of one training, in one folder, which is made by the first save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def at(self, step: int) -> Path:
        """Where the checkpoint of a step is, once it is written."""
        return self.folder / f"step-{step:08d}"

    def all(self) -> list[Path]:
        """Every checkpoint, good or damaged, oldest first."""
        if not self.folder.is_dir():
            return []
        return in_order(self.folder.iterdir(), name=lambda path: path.name)

    def save(self, state: State, weights: Tensors, ema: Tensors, moments: Tensors) -> Path:
        """Write a checkpoint, whole or not at all, and return its folder.

        Args: moments: of the optimizer, as `moments_by_name` gives them.
        Raises: EnvironmentFault: the folder cannot be written (read-only, disk full).
            OtherVersion: another tintlab's checkpoint is there.
        """
        final = self.at(state.step)
        partial = self._partial(final)
        tensors = {WEIGHTS: weights, EMA: ema, OPTIMIZER: moments}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._discard_partials()
            _refuse_other_version(final)
            partial.mkdir()
            _write(partial, tensors, state)
            # Only a damaged checkpoint, which training did not continue from, can have this name.
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync_to_disk(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)  # first: the room it takes is not needed
            parts = [tensor for part in tensors.values() for tensor in part.values()]
            need = sum(tensor.numel() * tensor.element_size() for tensor in parts)
            raise EnvironmentFault(
                f"cannot write checkpoint {final}, which needs {need:,} bytes{_room(self.folder)}: "
                f"{error}; free space or choose another workspace, then run the same command again"
            ) from error
        except BaseException:  # stopped in the middle, or refused
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return final

    def newest(self, say: Callable[[str], None] = warn_damaged) -> Path | None:
        """The newest checkpoint that is intact, or None where none was ever written.

        Args: say: told of each damaged one that is passed over, by name.
        Raises: IntegrityError: there are checkpoints, and every one of them is damaged.
            OtherVersion: the newest that is not damaged was written by another tintlab.
        """

        def intact(checkpoint: Path) -> Path:
            verify(checkpoint)
            return checkpoint

        return newest_intact(self.all(), intact, str(self.folder), say)

    def prune(self, keep_last: int, keep_best: int) -> list[Path]:
        """Delete all but the newest ones and those of the lowest val/bits_per_dim.

        Returns the deleted folders. What cannot be read counts as neither and is left alone: it
        may be of another version.
        """
        readable: list[tuple[Path, Mapping[str, float]]] = []
        for checkpoint in self.all():
            try:
                readable.append((checkpoint, read_state(checkpoint).metrics))
            except IntegrityError:
                continue
        deleted = superseded(readable, keep_last, keep_best)
        for checkpoint in deleted:
            doomed = self._partial(checkpoint)  # half-deleted, it must not look like a checkpoint
            try:
                checkpoint.rename(doomed)
            except OSError as error:
                raise EnvironmentFault(
                    f"cannot delete the old checkpoint {checkpoint}: {error.strerror}; "
                    "see to that disk, then run the same command again"
                ) from None
            shutil.rmtree(doomed, ignore_errors=True)
        return deleted

    @staticmethod
    def load_ema(checkpoint: Path) -> Colorizer:
        """The averaged model of a checkpoint, on the CPU and in eval mode.

        Raises: IntegrityError: a file is missing, altered, or not of this format version.
        """
        verify(checkpoint)
        config = read_state(checkpoint).config
        model = Colorizer(config.model, config.bins)
        fill(model, _read_tensors(checkpoint / EMA), str(checkpoint / EMA))
        return model.eval()

    def _partial(self, checkpoint: Path) -> Path:
        return self.folder / f".{checkpoint.name}.partial"

    def _discard_partials(self) -> None:
        for leftover in self.folder.glob(".step-*.partial"):  # of a process that was killed
            shutil.rmtree(leftover)


class Kept(NamedTuple):
    """Everything in a checkpoint."""

    state: State
    weights: Tensors
    ema: Tensors
    moments: Tensors


def read(checkpoint: Path) -> Kept:
    """A checkpoint, with its tensors on the CPU.

    Raises: IntegrityError: a file is missing, altered or not of this format version.
    """
    verify(checkpoint)
    weights, ema, moments = (_read_tensors(checkpoint / name) for name in (WEIGHTS, EMA, OPTIMIZER))
    return Kept(read_state(checkpoint), weights, ema, moments)


def verify(checkpoint: Path) -> None:
    """Compare every file of a checkpoint with its manifest.

    Raises: IntegrityError: a file is missing, altered, or not of this format version.
    """
    for name, record in _read_manifest(checkpoint).files.items():
        file = checkpoint / name
        try:
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
                got = stream.tell()
        except OSError as error:
            raise IntegrityError(f"checkpoint file {file}: {error.strerror}") from None
        if sha256 != record.sha256:
            what = f"{got} bytes, not {record.bytes}" if got != record.bytes else "altered"
            raise IntegrityError(f"checkpoint file {file} is not what was written: {what}")


def read_state(checkpoint: Path) -> State:
    """What a checkpoint knows besides its tensors; compares only this file with the manifest.

    Raises: IntegrityError: the state or the manifest is missing, altered or of another version.
    """
    manifest = _read_manifest(checkpoint)
    data = _read(checkpoint / STATE)
    if hashlib.sha256(data).hexdigest() != manifest.files[STATE].sha256:
        raise IntegrityError(f"checkpoint file {checkpoint / STATE} is not what was written")
    return parsed_state(data, str(checkpoint / STATE))


def parsed_state(data: bytes, source: str) -> State:
    """A state from its file's content.

    Raises: IntegrityError: it is another tintlab's; names the setting.
    """
    try:
        return State.model_validate_json(data)
    except ValidationError as error:  # written by a tintlab whose settings were others
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise IntegrityError(
            f"checkpoint file {source} does not fit this tintlab's settings at {key}; "
            "continue with the version that wrote it"
        ) from None


def _write(folder: Path, tensors: dict[str, Tensors], state: State) -> None:
    for name, part in tensors.items():
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in part.items()}
        safetensors.torch.save_file(plain, folder / name)
    (folder / STATE).write_text(state.model_dump_json(indent=2) + "\n")
    files: dict[str, dict[str, Any]] = {}
    for name in (*tensors, STATE):
        file = folder / name
        sync_to_disk(file)
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        files[name] = {"sha256": sha256, "bytes": file.stat().st_size}
    manifest = {"format": FORMAT, "version": VERSION, "files": files}
    manifest["sha256"] = seal(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    sync_to_disk(folder / MANIFEST)
    sync_to_disk(folder)


def seal(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 that a manifest must hold under `sha256`."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _refuse_other_version(checkpoint: Path) -> None:
    try:
        _read_manifest(checkpoint)
    except OtherVersion:
        raise
    except IntegrityError:
        return


def _room(folder: Path) -> str:
    try:
        return f" ({shutil.disk_usage(folder).free:,} are free)"
    except OSError:
        return ""


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise IntegrityError(f"checkpoint file {file}: {error.strerror}") from None


def _read_manifest(checkpoint: Path) -> Manifest:
    file = checkpoint / MANIFEST
    try:
        tree = json.loads(_read(file))
    except ValueError:
        raise IntegrityError(f"checkpoint file {file} is not JSON: it was altered") from None
    altered = f"checkpoint file {file} is not a manifest: it was altered"
    if not isinstance(tree, dict) or tree.get("sha256") not in (None, seal(tree)):
        raise IntegrityError(altered)
    if tree.get("format") == FORMAT and tree.get("version") != VERSION:  # version 1 has no seal
        raise OtherVersion(
            f"checkpoint {checkpoint} has format version {tree.get('version')!r}, "
            f"this tintlab reads version {VERSION}; use the tintlab that wrote it"
        )
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError:
        raise IntegrityError(altered) from None
    if wrong := set(CONTENT) ^ set(manifest.files):
        raise IntegrityError(f"checkpoint file {file} was altered at {sorted(wrong)[0]!r}")
    return manifest


def _read_tensors(file: Path) -> Tensors:
    try:
        tensors: Tensors = safetensors.torch.load_file(file, device="cpu")
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"checkpoint file {file}: {error}") from None
    return tensors
