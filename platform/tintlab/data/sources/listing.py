"""Where photos come from: files, folders, globs and lists, on any fsspec storage.

    photos/              every file in the folder, recursively
    "photos/*.jpg"       what matches; folders that match are searched
    @list.txt            one file per line; blank lines and lines that begin with # are skipped
    s3://bucket/photos   any of these on any storage that fsspec has a driver for

A `.tar` or Parquet file, wherever it is found, stands for the photos in it (`tars`,
`parquet_photos`). A list is marked with @, as for compilers and archivers, and not recognised by
its name: the shell puts every readme.txt into `photos/*`. Paths in a list count from the list's
folder. Nobody looks whether its files exist before they are read: web lists are long and full of
dead links, and those go to quarantine one by one.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec

from tintlab.data.storage import full_uri, is_local, resolve
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.redaction import redacted

TAR, PARQUET, PLAIN, COMPRESSED_TAR = "tar", "parquet", "file", "compressed tar"
"""What a file is taken for, by the end of its name."""

_CONTAINERS = (
    (re.compile(r"\.tar$", re.IGNORECASE), TAR),
    (re.compile(r"\.(parquet|pq)$", re.IGNORECASE), PARQUET),
    (re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4))$", re.IGNORECASE), COMPRESSED_TAR),
)
_MAGIC = re.compile(r"[*?\[]")
_WEB = {"http", "https"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Source:
    """One file."""

    uri: str
    """Absolute; any process can read it."""
    name: str
    """What a shard says about its origin: the same wherever the folder lies."""
    named: bool = False
    """Somebody gave this very file; others were found in a folder or by a glob."""

    @property
    def kind(self) -> str:
        """TAR, PARQUET, COMPRESSED_TAR or PLAIN."""
        return next((kind for pattern, kind in _CONTAINERS if pattern.search(self.name)), PLAIN)


@dataclass(frozen=True)
class Listing:
    """What the sources hold."""

    files: list[Source]
    """Each once, ordered by name."""
    left_out: int
    """Files in folders that are hidden: their names, or their folders', begin with a dot."""


def list_sources(sources: list[str], out: str) -> Listing:
    """Every file in the sources once, ordered by name.

    A file in a folder is named `<folder>/<path inside it>`, a match of a glob likewise after its
    last folder without a wildcard, a file given by itself by its own name, and one from a list as
    the list has it.
    Raises: EnvironmentFault: a source does not exist or cannot be listed, or there is no file in
        any. ConfigError: `out` lies inside a source, where its shards would be taken for photos.
    """
    out_fs, out_path = resolve(out)
    found: dict[str, Source] = {}
    hidden: set[str] = set()
    for source in sources:
        fs, path = resolve(source.removeprefix("@"))
        if type(fs) is type(out_fs) and f"{out_path}/".startswith(f"{path}/"):
            raise ConfigError(f"--out {out} lies inside the source {source}; choose another folder")
        try:
            for file in _listed(fs, path) if source.startswith("@") else _expanded(fs, path):
                if not file.named and any(
                    part.startswith(".") for part in file.name.split("/")[1:]
                ):
                    hidden.add(file.uri)
                elif file.named or file.uri not in found:
                    found[file.uri] = file
        except FileNotFoundError:
            raise EnvironmentFault(
                f"there is no photo or folder {shown(source)}; check the path, or make the folder "
                "first"
            ) from None
        except Exception as error:  # drivers raise what they like, such as NoCredentialsError
            what = " ".join(str(error).split()) or type(error).__name__
            raise EnvironmentFault(
                f"cannot list {shown(source)}: {what}; check the address and your credentials"
            ) from None
    if not found:
        listed = ", ".join(map(shown, sources)) or "no source"
        raise EnvironmentFault(f"no files in {listed}; give a folder that holds photos")
    files = sorted(found.values(), key=lambda source: (source.name, source.uri))
    return Listing(files, len(hidden - found.keys()))


def printable(name: str) -> str:
    """A file name as text that can be stored: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown(uri: str) -> str:
    """A URI without the secrets that it may carry: user, password and signed query."""
    if "://" not in uri:
        return printable(uri)
    return re.sub(r"://[^/@]*@", "://", redacted(uri.split("?", 1)[0]))


def _expanded(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Source]:
    """The files of one source.

    Raises: FileNotFoundError: there is none.
    """
    spoken = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    web = bool(_WEB & spoken)  # has neither folders nor globs
    if not web and fs.isdir(path):
        for inside in _in_folder(fs, path):
            yield _found(fs, path, inside)
    elif fs.exists(path):
        yield Source(full_uri(fs, path), printable(_last(path)), named=True)
    elif not web and (magic := _MAGIC.search(path)) and (matches := fs.glob(path)):
        base = path[: magic.start()].rsplit("/", 1)[0]
        for match in matches:
            for inside in _in_folder(fs, match) if fs.isdir(match) else [match]:
                yield _found(fs, base, inside)
    else:
        raise FileNotFoundError(path)


def _found(fs: fsspec.AbstractFileSystem, base: str, path: str) -> Source:
    relative = path.removeprefix(base).lstrip("/")
    return Source(full_uri(fs, path), printable(f"{_last(base)}/{relative}".rstrip("/")))


def _in_folder(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[str]:
    """Everything in a folder that is no folder, and folders that cannot be looked into.

    Links to folders are not followed, which could go in circles: they are inputs that cannot be
    read, so that the report names them.
    """
    if not is_local(fs):
        yield from fs.find(folder)
        return
    closed: list[str] = []
    for place, folders, files in os.walk(
        folder, onerror=lambda error: closed.append(error.filename)
    ):
        for name in files:
            yield f"{place}/{name}"
        yield from (path for name in folders if os.path.islink(path := f"{place}/{name}"))
        yield from closed
        closed.clear()
    yield from closed


def _listed(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Source]:
    """The files that a list names."""
    folder = path.rsplit("/", 1)[0]
    for line in fs.cat_file(path).removeprefix(_BYTE_ORDER_MARK).splitlines():
        entry = os.fsdecode(line)
        if not entry.strip() or entry.startswith("#"):
            continue
        if "://" in entry:
            uri = full_uri(*resolve(entry))
        else:
            uri = full_uri(fs, entry if entry.startswith("/") else f"{folder}/{entry}")
        yield Source(uri, shown(entry), named=True)


def _last(path: str) -> str:
    return path.split("?", 1)[0].rsplit("/", 1)[1] if "://" in path else path.rsplit("/", 1)[1]
