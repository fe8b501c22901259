"""Files on any fsspec storage: hashed while they are written, and there whole or not at all."""

import hashlib
import io
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from tintlab.errors import EnvironmentFault

TEMPORARY = ".tmp-"
"""Part of the name of every file that is still being written."""

HASH_CHUNK_BYTES = 1 << 20


def resolve(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URI, and its absolute path there.

    Raises: EnvironmentFault: nothing here speaks the URI's protocol, or nobody answers there.
    """
    if "://" not in uri:  # fsspec would read "::" in a file name as a chain of protocols
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        fs, path = url_to_fs(uri)
    except (ValueError, ImportError, OSError) as error:  # some drivers connect at once
        raise EnvironmentFault(f"cannot use {uri}: {' '.join(str(error).split())}") from None
    return fs, path.rstrip("/") or "/"


def full_uri(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """What `resolve` turns into `(fs, path)` again, in any process."""
    return path if is_local(fs) else fs.unstrip_protocol(path)


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether the storage is this machine's own file system."""
    return isinstance(fs, LocalFileSystem)


def on_this_machine(uri: str, purpose: str) -> Path:
    """A folder of this machine for what can only be kept in one: `uri` itself where it is local.

    Args: purpose: becomes part of the name of one in the temporary folder.
    """
    fs, path = resolve(uri)
    if is_local(fs):
        return Path(path)
    digest = hashlib.sha256(full_uri(fs, path).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"tintlab-{purpose}" / digest


def require_writable(uri: str) -> None:
    """Make a folder and write a file into it, so that what cannot work ends before it has begun.

    Raises: EnvironmentFault: it cannot be written.
    """
    fs, path = resolve(uri)
    probe = f"{path}/.writable-{secrets.token_hex(4)}"
    try:
        with written(fs, probe) as file:
            file.write(b"tintlab\n")
        fs.rm_file(probe)
    except Exception as error:  # drivers of fsspec raise what they like
        raise EnvironmentFault(
            f"cannot write to {uri}: {one_line(error)}; choose a place that can be written"
        ) from None


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


class HashedFile(io.RawIOBase):
    """A stream that can only be written, and knows the SHA-256 and size of what it was given."""

    def __init__(self, stream: io.IOBase) -> None:
        super().__init__()
        self._stream = stream
        self._digest = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Append all of `data`."""
        self._stream.write(data)
        self._digest.update(data)
        count = memoryview(data).nbytes
        self.bytes += count
        return count

    def tell(self) -> int:
        """The number of bytes written so far."""
        return self.bytes

    @property
    def sha256(self) -> str:
        """Of everything written so far, in hexadecimal."""
        return self._digest.hexdigest()


@contextmanager
def written(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[HashedFile]:
    """A file that has its name only once the block has ended without an error.

    On a local disk it is also synced, so that a file which has the name survives a power cut.
    """
    folder, name = path.rsplit("/", 1)
    fs.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with fs.open(temporary, "wb") as stream:
            yield HashedFile(stream)
            stream.flush()
            if is_local(fs):
                os.fsync(stream.fileno())
        if is_local(fs):
            os.replace(temporary, path)
            sync_to_disk(folder)
        else:
            fs.mv(temporary, path)
    except BaseException:
        with suppress(OSError):
            fs.rm_file(temporary)
        raise


def hash_of(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with fs.open(path, "rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync_to_disk(path: str | Path) -> None:
    """Make a local file, or the names in a local folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
