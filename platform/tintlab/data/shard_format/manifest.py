"""The manifest of a data set: what it was made with, what it holds, and the hash of every file.

A folder without `manifest.json` is not a data set. It is written last and whole.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import fsspec
from pydantic import Field, ValidationError

from tintlab.config import first_problem
from tintlab.data.shard_format.ab_statistics import AbStatistics
from tintlab.data.shard_format.split import SPLITS
from tintlab.data.storage import full_uri, written
from tintlab.errors import EnvironmentFault, IntegrityError
from tintlab.settings import Settings

FORMAT = "tintlab-lab-shards"
VERSION = 2
"""1 had no grey levels to tell copies by, and copies were trained on."""
NAME = "manifest.json"

Parameters = dict[str, str | int | float | None]
"""What the shards were made with: equal parameters and photos give equal bytes."""


class ShardEntry(Settings):
    """One Parquet file of the data set."""

    name: str
    """File name inside the data set's folder."""
    rows: int
    """Photos in it, of all splits."""
    sha256: str
    """Of the whole file."""
    bytes: int
    """Size of the whole file."""


class Size(Settings):
    """An extreme height and an extreme width of a split's photos; not always of the same photo."""

    height: int
    width: int


class QuarantineSummary(Settings):
    """What could not be stored, counted; the table names each file."""

    table: ShardEntry | None
    """Parquet file with path, reason, message and sha256; None if nothing was quarantined."""
    reasons: dict[str, int]
    """Files by reason."""


class CopiesSummary(Settings):
    """Photos that look like one of a later split and are left out of their own, counted."""

    table: ShardEntry | None
    """Parquet file that names each, and what it is a copy of; None if there is none."""
    counts: dict[str, int]
    """Copies by split; none in test."""


NO_COPIES = CopiesSummary(table=None, counts=dict.fromkeys(SPLITS, 0))


class Manifest(Settings):
    """Everything about a data set that is not a pixel."""

    format: str = FORMAT
    version: int = VERSION
    generation: int
    """1 when first prepared, and one more each time photos were added."""
    parameters: Parameters
    """What every shard was made with; photos added later must be made with the same."""
    split_rule: str
    """How a photo's split follows from its perceptual hash."""
    shards: list[ShardEntry]
    """In the order in which photos are numbered; photos added later come last."""
    counts: dict[str, int]
    """Photos by split."""
    smallest: dict[str, Size]
    """By split, for those splits that hold a photo."""
    largest: dict[str, Size] = Field(default_factory=dict)
    """By split, for those splits that hold a photo."""
    near_grey: dict[str, int] = Field(default_factory=dict)
    """Photos by split whose mean chroma is under `near_grey_chroma` of the parameters."""
    notes: dict[str, int] = Field(default_factory=dict)
    """What decoding had to do to some photos, and to how many: see the shards' column `notes`."""
    copies: CopiesSummary
    """What looks like a photo of a later split: see `shard_format/copies.py`."""
    ab: AbStatistics
    """Of what is trained on: the train split alone, so that nothing about the other two reaches
    training, without its copies and near-grey photos."""
    quarantine: QuarantineSummary
    fingerprint: str
    """Of format, parameters, shards and copies: equal fingerprints are equal data."""

    @property
    def files(self) -> list[ShardEntry]:
        """Every file of the data set but the manifest itself."""
        tables = (self.copies.table, self.quarantine.table)
        return [*self.shards, *(table for table in tables if table)]

    @property
    def near_grey_chroma(self) -> float:
        """Photos with less mean chroma than this are near-grey; 0, so none, if it was not set."""
        return float(self.parameters.get("near_grey_chroma") or 0.0)

    @classmethod
    def read(cls, fs: fsspec.AbstractFileSystem, root: str) -> "Manifest":
        """The manifest of the data set at `root`.

        Raises: EnvironmentFault: there is none. IntegrityError: another version, or broken.
        """
        uri = full_uri(fs, root)
        try:
            text = fs.cat_file(f"{root}/{NAME}")
        except (FileNotFoundError, NotADirectoryError):
            raise EnvironmentFault(
                f"{uri} is not a data set: no {NAME}; run tintlab prepare PHOTOS --out {uri}"
            ) from None
        except OSError as error:
            raise EnvironmentFault(f"cannot read {uri}/{NAME}: {error}") from None
        try:
            tree = json.loads(text)
            found = (tree["format"], tree["version"])
        except (ValueError, KeyError, TypeError):
            raise IntegrityError(
                f"{uri}/{NAME} is broken: it names no format and version; prepare the photos again"
            ) from None
        if found != (FORMAT, VERSION):
            raise IntegrityError(
                f"{uri} is of format {found[0]} version {found[1]}, and this tintlab reads "
                f"{FORMAT} version {VERSION}; use the tintlab that wrote it, or delete the folder "
                "and run tintlab prepare again"
            )
        try:
            manifest = cls.model_validate(tree)
        except ValidationError as error:
            raise IntegrityError(f"{uri}/{NAME} is broken: {first_problem(error)}") from None
        expected = fingerprint(manifest.parameters, manifest.shards, manifest.copies)
        if manifest.fingerprint != expected:
            raise IntegrityError(
                f"{uri}/{NAME} was changed: its fingerprint is not that of its content; "
                "prepare the photos again"
            )
        return manifest

    def write(self, fs: fsspec.AbstractFileSystem, root: str) -> None:
        """Put the manifest in place, replacing an older one at once."""
        with written(fs, f"{root}/{NAME}") as file:
            file.write((json.dumps(self.model_dump(), indent=1) + "\n").encode())


def fingerprint(parameters: Parameters, shards: list[ShardEntry], copies: CopiesSummary) -> str:
    """SHA-256 over what decides what is trained on: format, parameters, shards and copies."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "parameters": parameters,
        "shards": [[shard.name, shard.sha256] for shard in shards],
        "copies": copies.table and [copies.table.name, copies.table.sha256],
    }
    return digest_of(content)


def digest_of(content: Any) -> str:
    """SHA-256 of plain data, in hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def difference(have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """How two sets of parameters differ, as text; empty if they do not."""
    keys = sorted({*have, *want})
    return ", ".join(
        f"{key} is {have.get(key)!r} there and {want.get(key)!r} here"
        for key in keys
        if have.get(key) != want.get(key)
    )
