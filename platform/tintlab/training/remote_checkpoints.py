"""Checkpoints on storage that has no folders to rename, such as an object store.

A training writes its checkpoints on its own machine, where they are whole or not there, and each is
then copied here: its files first, its manifest last. A folder without a manifest is no checkpoint;
the next upload clears it away. What is loaded from here is copied back and verified there first.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import fsspec

from tintlab.data.storage import full_uri, one_line
from tintlab.errors import EnvironmentFault, IntegrityError, TintlabError
from tintlab.training.checkpoint_choice import in_order, newest_intact, superseded, warn_damaged
from tintlab.training.checkpoints import CONTENT, MANIFEST, STATE, parsed_state, read_state, verify


class RemoteCheckpoints:
    """The checkpoints of one training in a folder of any fsspec storage."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self._fs, self._root = fs, root
        self._metrics: dict[str, dict[str, float]] = {}
        self._intact: set[str] = set()  # as far as this process has seen

    def all(self) -> list[str]:
        """The names of those that have a manifest, good or damaged, oldest first."""
        return [name for name, files in self._listed().items() if MANIFEST in files]

    def upload(self, checkpoint: Path) -> None:
        """Copy a checkpoint here, so that it is whole or not there; nothing if it came from here.

        Raises: EnvironmentFault: the storage does not take it; earlier ones are untouched.
        """
        if checkpoint.name in self._intact:
            return
        target = f"{self._root}/{checkpoint.name}"
        files = [checkpoint / name for name in (*CONTENT, MANIFEST)]
        try:
            for name, found in self._listed().items():
                # What a killed process left, or a damaged one, which training did not go on from.
                if MANIFEST not in found or name == checkpoint.name:
                    self._delete(name)
            for file in files:
                self._put(file, f"{target}/{file.name}")
        except Exception as error:  # drivers raise what they like
            with suppress(Exception):
                self._delete(checkpoint.name)
            need = sum(file.stat().st_size for file in files)
            raise EnvironmentFault(
                f"cannot write checkpoint {self._uri(checkpoint.name)}, which needs {need:,} "
                f"bytes: {one_line(error)}; see to the storage, then run the same command again"
            ) from error
        self._intact.add(checkpoint.name)
        self._metrics[checkpoint.name] = read_state(checkpoint).metrics

    def newest(self, into: Path, say: Callable[[str], None] = warn_damaged) -> Path | None:
        """Copy the newest one that is intact into the folder `into`; None where there is none.

        Raises: see `Checkpoints.newest`. EnvironmentFault: the storage cannot be read, or `into`
            cannot be written.
        """

        def intact(name: str) -> Path:
            copy = into / name
            self._intact.discard(name)
            try:
                self._download(name, copy)
                verify(copy)
            except TintlabError as error:  # names the copy, which nobody knows
                shutil.rmtree(copy, ignore_errors=True)
                raise type(error)(str(error).replace(str(copy), self._uri(name))) from None
            self._intact.add(name)
            return copy

        return newest_intact(self.all(), intact, full_uri(self._fs, self._root), say)

    def prune(self, keep_last: int, keep_best: int) -> list[str]:
        """Delete as `Checkpoints.prune` does; returns the deleted names.

        Raises: EnvironmentFault: the storage does not answer.
        """
        readable = []
        for name in self.all():
            with suppress(IntegrityError):
                readable.append((name, self._metrics_of(name)))
        deleted = superseded(readable, keep_last, keep_best)
        for name in deleted:
            try:
                self._delete(name)
            except Exception as error:
                raise self._unreadable(name, error) from error
        return deleted

    def _listed(self) -> dict[str, set[str]]:
        """What is in each folder that is named like a checkpoint, oldest first."""
        try:
            self._fs.invalidate_cache()
            found = self._fs.find(self._root)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise self._unreadable("", error) from error
        folders: dict[str, set[str]] = {}
        for path in found:
            folder, _, file = path.removeprefix(f"{self._root}/").partition("/")
            folders.setdefault(folder, set()).add(file)
        return {name: folders[name] for name in in_order(folders, name=str)}

    def _put(self, file: Path, target: str) -> None:
        self._fs.put_file(str(file), target)
        size = self._fs.size(target)
        if size != file.stat().st_size:
            raise OSError(f"{target} has {size} bytes after {file.stat().st_size} were sent")

    def _delete(self, name: str) -> None:
        folder = f"{self._root}/{name}"
        with suppress(FileNotFoundError):
            self._fs.rm_file(f"{folder}/{MANIFEST}")  # first: what is half deleted is no checkpoint
        with suppress(FileNotFoundError):
            self._fs.rm(folder, recursive=True)

    def _download(self, name: str, copy: Path) -> None:
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        for file in (MANIFEST, *CONTENT):
            try:
                self._fs.get_file(f"{self._root}/{name}/{file}", str(copy / file))
            except FileNotFoundError:
                raise IntegrityError(f"checkpoint file {copy / file} is missing") from None
            except Exception as error:
                raise self._unreadable(f"{name}/{file}", error) from error

    def _metrics_of(self, name: str) -> dict[str, float]:
        if name not in self._metrics:
            path = f"{name}/{STATE}"
            try:
                data = self._fs.cat_file(f"{self._root}/{path}")
            except FileNotFoundError:
                raise IntegrityError(f"checkpoint file {self._uri(path)} is missing") from None
            except Exception as error:
                raise self._unreadable(path, error) from error
            self._metrics[name] = parsed_state(data, self._uri(path)).metrics
        return self._metrics[name]

    def _unreadable(self, path: str, error: Exception) -> EnvironmentFault:
        return EnvironmentFault(
            f"cannot use {self._uri(path)}: {one_line(error)}; see to the storage and its "
            "credentials, then run the same command again"
        )

    def _uri(self, path: str) -> str:
        return full_uri(self._fs, f"{self._root}/{path}".rstrip("/"))
