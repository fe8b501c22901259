"""Where photos come from: files, folders and globs on any fsspec storage."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec

from tintlab.data.images import Undecodable
from tintlab.data.storage import full_uri, is_local, resolve
from tintlab.errors import ConfigError, EnvironmentFault


@dataclass(frozen=True)
class Source:
    """One input file."""

    uri: str
    """Absolute; any process can read it."""
    name: str
    """What a shard says about its origin: the same wherever the folder lies."""


def list_sources(sources: list[str], out: str) -> list[Source]:
    """Every file in the sources once, ordered by name. Names that begin with a dot are left out.

    A folder is searched recursively; a file in it is named `<folder>/<path inside it>`.
    Raises: EnvironmentFault: a source does not exist, or there is no file in any. ConfigError:
        `out` lies inside a source, where its shards would be taken for photos.
    """
    out_fs, out_path = resolve(out)
    found: dict[str, Source] = {}
    for source in sources:
        fs, path = resolve(source)
        for source_path, name in _expanded(fs, path, source):
            uri = full_uri(fs, source_path)
            found.setdefault(uri, Source(uri, printable(name)))
        if type(fs) is type(out_fs) and f"{out_path}/".startswith(f"{path}/"):
            raise ConfigError(f"--out {out} lies inside the source {source}; choose another folder")
    if not found:
        listed = ", ".join(sources) or "no source"
        raise EnvironmentFault(f"no files in {listed}; give a folder that holds photos")
    return sorted(found.values(), key=lambda source: (source.name, source.uri))


def read(uri: str) -> bytes | Undecodable:
    """The bytes of a file, or why there are none.

    Reasons: no_permission, vanished, not_a_file, unreadable.
    """
    fs, path = resolve(uri)
    if is_local(fs) and os.path.exists(path) and not os.path.isfile(path):
        return Undecodable("not_a_file", "a folder, pipe, socket or device")  # a pipe would block
    try:
        return fs.cat_file(path)
    except PermissionError:
        return Undecodable("no_permission", "the file may not be read")
    except FileNotFoundError:
        return Undecodable("vanished", "the file is not there any more, or a link leads nowhere")
    except OSError as error:
        return Undecodable("unreadable", " ".join(str(error).split()))


def digest(uri: str) -> str | Undecodable:
    """SHA-256 of a file, in hexadecimal, or why it cannot be read."""
    data = read(uri)
    return data if isinstance(data, Undecodable) else hashlib.sha256(data).hexdigest()


def printable(name: str) -> str:
    """A file name as text that can be stored: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _expanded(fs: fsspec.AbstractFileSystem, path: str, source: str) -> Iterator[tuple[str, str]]:
    """The files of one source, each with its name."""
    try:
        if fs.isdir(path):
            base = path.rsplit("/", 1)[1]
            for inside in fs.find(path):
                relative = inside.removeprefix(path).lstrip("/")
                if not any(part.startswith(".") for part in relative.split("/")):
                    yield inside, f"{base}/{relative}"
        elif fs.exists(path):
            yield path, path.rsplit("/", 1)[1]
        elif matches := fs.glob(path):
            for match in matches:
                if not fs.isdir(match):
                    yield match, match.rsplit("/", 1)[1]
        else:
            raise EnvironmentFault(
                f"there is no photo or folder {source}; check the path, or make the folder first"
            )
    except OSError as error:
        raise EnvironmentFault(f"cannot list {source}: {error}") from None
