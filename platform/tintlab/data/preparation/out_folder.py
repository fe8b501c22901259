"""The folder a data set is made in: what may be there before, who may write, what is cleared up."""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import fsspec

from tintlab.data.shard_format import manifest
from tintlab.data.shard_format.manifest import Manifest, Parameters
from tintlab.data.sources.listing import shown
from tintlab.data.storage import full_uri, is_local
from tintlab.errors import ConfigError, ConflictError, EnvironmentFault, TintlabError

LOCK = ".lock"
REPORTS = ("report.json", "report.html", "report.parquet")
"""Of the last preparation; not part of the data set."""

_OURS = re.compile(
    r"(shard|copies|quarantine)-[0-9a-f]{16}\.parquet|report\.(json|html|parquet)|\.lock"
    r"|\.((shard|copies|quarantine)-[0-9a-f]{16}\.parquet|manifest\.json|report\.(json|html|parquet))"
    r"\.tmp-[0-9a-f]+"
)


def existing(fs: fsspec.AbstractFileSystem, root: str, parameters: Parameters) -> Manifest | None:
    """The manifest at `out`; None if there is nothing, or only what an unfinished run left.

    Raises: ConflictError: other parameters, or something that is not ours. IntegrityError: a data
        set of another version, or a damaged one. ConfigError: storage that workers cannot see.
        EnvironmentFault: the storage lets nobody look.
    """
    uri = full_uri(fs, root)
    try:
        return _existing(fs, root, uri, parameters)
    except TintlabError:
        raise
    except Exception as error:  # drivers raise what they like, such as NoCredentialsError
        if is_local(fs) and not isinstance(error, OSError):
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        raise EnvironmentFault(
            f"cannot look into {shown(uri)}: {what}; check --out and your credentials"
        ) from None


def _existing(
    fs: fsspec.AbstractFileSystem, root: str, uri: str, parameters: Parameters
) -> Manifest | None:
    if fs.protocol == "memory":
        raise ConfigError(
            f"{uri} is the memory of this one process, which workers cannot see; give a folder or "
            "a URI that all of them see"
        )
    if fs.exists(f"{root}/{manifest.NAME}"):
        old = Manifest.read(fs, root)
        if differs := manifest.difference(old.parameters, parameters):
            raise ConflictError(
                f"{uri} was prepared with other parameters: {differs}; use the same ones, or "
                "another --out"
            )
        return old
    if not fs.exists(root):
        return None
    if not fs.isdir(root):
        raise ConflictError(f"{uri} is a file; give a folder as --out")
    for path in fs.ls(root, detail=False):
        name = path.rstrip("/").rsplit("/", 1)[1]
        if not _OURS.fullmatch(name):
            raise ConflictError(
                f"{uri} holds something else ({name}) and no data set; give another --out"
            )
    return None


@contextmanager
def claimed(fs: fsspec.AbstractFileSystem, root: str, command: str = "prepare") -> Iterator[None]:
    """Be the only command that writes here, on this machine's file systems; makes the folder.

    The kernel takes the claim back however its holder ends. Remote storage is not guarded: nothing
    that all of fsspec's drivers have could do it.
    Raises: ConflictError: another one is at work. EnvironmentFault: the folder cannot be written.
    """
    if not is_local(fs):
        yield
        return
    try:
        descriptor = _locked(root, command)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write to {root}: {_line(error)}; give another --out"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(f"{root}/{LOCK}")
        os.close(descriptor)
        with suppress(OSError):  # not empty, as it should be
            os.rmdir(root)


def remove_leftovers(fs: fsspec.AbstractFileSystem, root: str, keep: set[str]) -> None:
    """Remove what interrupted runs left."""
    fs.invalidate_cache()
    if not fs.exists(root):
        return
    for path in fs.ls(root, detail=False):
        name = path.rstrip("/").rsplit("/", 1)[1]
        if name not in keep and name != LOCK and _OURS.fullmatch(name):
            fs.rm_file(path)


def _locked(root: str, command: str) -> int:
    """A descriptor of the lock file, locked and with our process id in it."""
    while True:
        os.makedirs(root, exist_ok=True)
        path = f"{root}/{LOCK}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # another one has just left, and removed the empty folder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except FileNotFoundError:
            pass  # its last holder removed it: what we locked is not what others would see
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace") or "unknown"
            os.close(descriptor)
            raise ConflictError(
                f"another tintlab {command} (process {holder}) is writing to {root}; wait for it "
                "to end, or give another --out"
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.ENOLCK:
                raise EnvironmentFault(f"{root} is on a file system without locks") from None
            raise
        os.close(descriptor)


def _line(error: OSError) -> str:
    return " ".join(str(error).split())
