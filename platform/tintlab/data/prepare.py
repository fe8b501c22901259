"""Photos -> Lab shards, on Ray: nothing lost, nothing done twice, the same bytes every time.

    list the files -> hash their photos -> share out what is new -> decode and write -> manifest
                      (Ray tasks)                                   (Ray tasks)         and report

What goes into which shard is decided before anything is decoded: new photos are ordered by the
hash of their bytes and cut into shards of `shard_rows`, and a shard is named by the hash of what is
meant for it. One task reads, decodes and writes one shard, a few megabytes at a time. So names and
bytes do not depend on the number of workers; a shard that is in place need not be made again; and a
run that was stopped goes on where it was. When all photos are known, those of train that look like
one of val or test are listed and left out, see `shard_format/copies.py`. The manifest comes last.

Photos in Parquet files keep the order of their rows, because a row cannot be read without those
before it in its row group; a few of their shards are made by one task, in one pass.

Plain tasks and not Ray Data: a task goes from files to a file and no pixels pass between tasks, so
its streaming has nothing to do here, and costs 3 s more at the start and 0.2 s between two shards.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import fsspec

from tintlab.data.preparation.account import PrepareReport, account, counted, quarantine_rows
from tintlab.data.preparation.guard import guarded
from tintlab.data.preparation.out_folder import claimed, existing, remove_leftovers
from tintlab.data.preparation.pace import Pace
from tintlab.data.preparation.quarantine import Quarantined, read_quarantine, write_quarantine
from tintlab.data.preparation.report import write_reports
from tintlab.data.preparation.tasks import hash_task, parameters_of, shards_task
from tintlab.data.prepare_config import PrepareConfig
from tintlab.data.shard_format import manifest
from tintlab.data.shard_format.ab_statistics import merged
from tintlab.data.shard_format.manifest import NO_COPIES, Manifest, ShardEntry
from tintlab.data.shard_format.shard_writer import ShardSummary, combined
from tintlab.data.shard_format.split import RULE, SPLITS
from tintlab.data.shards import open_shards, verify
from tintlab.data.sources.inputs import Input, count_of, require_image_columns
from tintlab.data.sources.listing import PLAIN, Source, list_sources, shown
from tintlab.data.sources.photo_bytes import TRY_AGAIN, Place
from tintlab.data.storage import full_uri, resolve
from tintlab.errors import ConfigError, EnvironmentFault, IntegrityError

FILES_PER_TASK = 512
"""Files one task hashes: long against the milliseconds a Ray task costs, short against a run."""

PARQUET_SHARDS_PER_TASK = 16
"""Shards one task makes of a row group of photos: more passes over it, or fewer tasks at once."""

CORES_PER_TASK = 1

CANCEL_S = 30.0
"""How long tasks that are no longer wanted may take to end."""

TASKS_PER_CORE = 4
"""Tasks that run or wait for a core: it never waits for the driver, whose memory is bounded."""

__all__ = ["PrepareConfig", "PrepareReport", "plan", "prepare"]

Show = Callable[[str], None]
_Made = tuple[ShardEntry, ShardSummary]


def plan(
    sources: list[str], out: str, config: PrepareConfig, image_column: str | None = None
) -> int:
    """How many inputs `prepare` would take in; finds what would make it refuse, changes nothing.

    Raises: as `prepare`.
    """
    files = list_sources(sources, out).files
    existing(*resolve(out), parameters_of(config))
    require_image_columns(files, image_column)
    return sum(count_of(source) for source in files)


def prepare(
    sources: list[str],
    out: str,
    config: PrepareConfig | None = None,
    show: Show | None = None,
    image_column: str | None = None,
) -> PrepareReport:
    """Take photos into the data set at `out`, which is made, gone on with, or added to.

    Args: show: gets a line about the progress now and then. image_column: of the Parquet files
        among the sources, where they have several that could be.
    Raises: EnvironmentFault: a source is missing, there is no file, none of them is a photo, the
        storage fails, or Ray is not connected. ConflictError: `out` holds something else, or a data
        set with other parameters, or is being written to. IntegrityError: the data set that is
        there is damaged. ConfigError: a Parquet file without a clear column of images.
    """
    started_s = time.monotonic()
    config = config or PrepareConfig()
    listing = list_sources(sources, out)
    fs, root = resolve(out)
    existing(fs, root, parameters_of(config))
    require_image_columns(listing.files, image_column)
    _require_ray()
    _require_visible(listing.files)
    with claimed(fs, root):
        run = _Run(fs, root, config, show or _silent)
        try:
            return run.of(sources, listing.files, listing.left_out, image_column, started_s)
        except OSError as error:  # of the storage: an unreadable input is no error
            raise _cannot_write(run.uri, " ".join(str(error).split())) from None


@dataclass(frozen=True)
class _Run:
    """One preparation that has the folder to itself."""

    fs: fsspec.AbstractFileSystem
    root: str
    config: PrepareConfig
    show: Show

    @property
    def uri(self) -> str:
        return full_uri(self.fs, self.root)

    def of(
        self,
        sources: list[str],
        files: list[Source],
        left_out: int,
        image_column: str | None,
        started_s: float,
    ) -> PrepareReport:
        old = existing(self.fs, self.root, parameters_of(self.config))
        inputs, also_left_out = self._hashed(files, image_column)
        in_place = open_shards(self.uri).source_hashes() if old else set()
        before = read_quarantine(self.fs, self.root, old) if old else []
        refused = {file.sha256: file for file in before if file.sha256}
        new: dict[str, Input] = {}
        for item in inputs:
            if item.sha256 and item.sha256 not in in_place and item.sha256 not in refused:
                new.setdefault(item.sha256, item)

        made, decoded = self._shards(list(new.values()))
        for _, summary in made:
            for bad in summary.refused:
                sha256 = None if bad.reason in TRY_AGAIN else bad.sha256
                refused[bad.sha256] = Quarantined("", bad.reason, bad.message, sha256)
        stored = in_place | (new.keys() - refused.keys())
        outcomes = account(inputs, stored, refused)
        counts, reasons = counted(outcomes)
        if not stored:
            remove_leftovers(self.fs, self.root, keep=set())
            named = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            raise EnvironmentFault(
                f"none of the {len(inputs)} files in {', '.join(map(shown, sources))} is a photo "
                f"that can be stored ({named}); give photos, folders of photos, or @FILE for a "
                "list of them"
            )
        quarantine = quarantine_rows(outcomes, before, stored)
        if old and set(quarantine) == set(before) and not any(entry.rows for entry, _ in made):
            if problems := verify(self.uri):
                raise IntegrityError(
                    f"{self.uri} is damaged: {'; '.join(problems)}; "
                    "restore the files, or delete the folder and run tintlab prepare again"
                )
            result = old
        else:
            result = self._manifest(old, made, quarantine)
            result.write(self.fs, self.root)
        remove_leftovers(self.fs, self.root, keep={entry.name for entry in result.files})
        report = PrepareReport(
            inputs=len(inputs),
            stored=counts["stored"],
            duplicates=counts["duplicate"],
            quarantined=counts["quarantined"],
            reasons=reasons,
            left_out=left_out + also_left_out,
            decoded=decoded,
            splits=result.counts,
            near_grey=result.near_grey,
            copies=result.copies.counts,
            notes=result.notes,
            generation=result.generation,
            fingerprint=result.fingerprint,
            seconds=time.monotonic() - started_s,
        )
        assert report.inputs == report.stored + report.duplicates + report.quarantined
        write_reports(self.fs, self.root, report, outcomes, open_shards(self.uri))
        return report

    def _hashed(self, files: list[Source], image_column: str | None) -> tuple[list[Input], int]:
        """The photos in the files, in a fixed order, and how many members of tars are none."""
        plain = [source for source in files if source.kind == PLAIN]
        shares = [plain[at : at + FILES_PER_TASK] for at in range(0, len(plain), FILES_PER_TASK)]
        shares += [[source] for source in files if source.kind != PLAIN]
        tasks = [
            {"files": [[file.uri, file.name] for file in share], "image_column": image_column}
            for share in shares
        ]
        inputs: list[Input] = []
        left_out = done = 0
        pace = Pace("prepare: hashing", "files", len(files))
        for result in _run(hash_task, tasks):
            inputs += [Input(name, Place(*place), *rest) for name, place, *rest in result["inputs"]]
            left_out += result["left_out"]
            done += result["files"]
            self.show(pace.line(done, done))
        return sorted(inputs, key=lambda item: (item.name, item.place.uri)), left_out

    def _shards(self, new: list[Input]) -> tuple[list[_Made], int]:
        """Write the shards of new photos, in a fixed order; and how many photos were decoded.

        Raises: EnvironmentFault: the storage failed; the shards that are finished stay.
        """
        parameters = parameters_of(self.config)
        shards: list[dict[str, Any]] = []
        for share in _shares(new, self.config.shard_rows):
            identity = [[item.sha256, item.name] for item in share]
            key = manifest.digest_of([manifest.VERSION, parameters, identity])
            photos = [(item.place, item.name, item.sha256) for item in share]
            shards.append({"key": key, "photos": photos})
        tasks = [
            {"out": self.uri, "config": self.config.model_dump(), "shards": part}
            for part in _parts(shards)
        ]
        made: dict[str, _Made] = {}
        done = decoded = 0
        pace = Pace("prepare:", "photos", len(new))
        for result in _run(shards_task, tasks):
            if fault := result.get("fault"):
                raise _cannot_write(self.uri, fault)
            for shard in result["made"]:
                summary = ShardSummary.model_validate(shard["summary"])
                made[summary.key] = (ShardEntry.model_validate(shard["entry"]), summary)
                done += shard["photos"]
                decoded += shard["decoded"]
            self.show(pace.line(done, decoded))
        return [made[shard["key"]] for shard in shards], decoded

    def _manifest(
        self, old: Manifest | None, made: list[_Made], quarantine: list[Quarantined]
    ) -> Manifest:
        """The manifest of what is there and what was added; writes its tables."""
        shards = [*(old.shards if old else []), *(entry for entry, _ in made if entry.rows)]
        parts: list[Manifest | ShardSummary] = [*([old] if old else [])]
        parts += [summary for _, summary in made]
        sizes = {split: [part for part in parts if split in part.smallest] for split in SPLITS}
        notes = sorted({note for part in parts for note in part.notes})
        parameters = parameters_of(self.config)
        copies = old.copies if old else NO_COPIES
        everything = Manifest(
            generation=old.generation + 1 if old else 1,
            parameters=parameters,
            split_rule=RULE,
            shards=shards,
            counts={split: sum(part.counts[split] for part in parts) for split in SPLITS},
            smallest={
                split: combined([part.smallest[split] for part in having], min)
                for split, having in sizes.items()
                if having
            },
            largest={
                split: combined([part.largest[split] for part in having], max)
                for split, having in sizes.items()
                if having
            },
            near_grey={split: sum(part.near_grey[split] for part in parts) for split in SPLITS},
            notes={note: sum(part.notes.get(note, 0) for part in parts) for note in notes},
            copies=copies,
            ab=merged(part.ab for part in parts),
            quarantine=write_quarantine(self.fs, self.root, quarantine),
            fingerprint=manifest.fingerprint(parameters, shards, copies),
        )
        self.show("prepare: looking for copies of photos of val and test")
        return guarded(self.fs, self.root, everything)


def _require_ray() -> None:
    """Raises: EnvironmentFault: Ray is not connected; a task would start one of its own."""
    import ray

    if not ray.is_initialized():
        raise EnvironmentFault("prepare needs Ray; call it inside tintlab.cluster.connect()")


def _require_visible(files: list[Source]) -> None:
    """Raises: ConfigError: a source is where workers cannot look."""
    for source in files:
        if source.uri.startswith("memory://"):
            raise ConfigError(
                f"{source.uri} is in the memory of this one process, which workers cannot see; "
                "give files, or a URI that all of them see"
            )


def _cannot_write(uri: str, what: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"cannot write to {uri}: {what}; shards that are finished are kept, and the same command "
        "goes on"
    )


def _shares(new: list[Input], rows: int) -> Iterator[list[Input]]:
    """New photos as they go into shards: anywhere in files and tars, by row in Parquet files."""
    anywhere = sorted((i for i in new if i.place.row is None), key=lambda item: item.sha256 or "")
    rows_of: dict[str, list[Input]] = defaultdict(list)
    for item in new:
        if item.place.row is not None:
            rows_of[item.place.uri].append(item)
    files = sorted(rows_of.values(), key=lambda items: min(item.name for item in items))
    by_row = [item for items in files for item in sorted(items, key=lambda item: item.place[3:5])]
    for photos in (anywhere, by_row):
        for at in range(0, len(photos), rows):
            yield photos[at : at + rows]


def _parts(shards: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Shards as tasks make them: one each, or some of the same row group."""
    for row_group, group in groupby(shards, key=_row_group):
        together = list(group)
        count = 1 if row_group is None else PARQUET_SHARDS_PER_TASK
        for at in range(0, len(together), count):
            yield together[at : at + count]


def _row_group(shard: dict[str, Any]) -> tuple[str, int] | None:
    """The row group that a shard begins in, if it is of a Parquet file."""
    place: Place = shard["photos"][0][0]
    return None if place.row_group is None else (place.uri, place.row_group)


def _run(
    function: Callable[[dict[str, Any]], dict[str, Any]], tasks: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Run tasks with Ray and yield the results as they come; no task outlives the iterator."""
    import ray

    remote = ray.remote(num_cpus=CORES_PER_TASK)(function)
    left = iter(tasks)
    running: list[ray.ObjectRef] = []
    try:
        while True:
            cores = int(ray.cluster_resources().get("CPU", 1))  # a cluster may grow
            room = max(TASKS_PER_CORE * cores - len(running), 0)
            running += [remote.remote(task) for task in islice(left, room)]
            if not running:
                return
            done, running = ray.wait(running)
            yield from ray.get(done)
    finally:
        for task in running:
            ray.cancel(task)
        if running:  # whoever comes next may use the folder
            ray.wait(running, num_returns=len(running), timeout=CANCEL_S)


def _silent(line: str) -> None:
    """Progress that nobody watches."""
