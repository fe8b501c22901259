"""Photos -> Lab shards, with Ray Data: nothing lost, nothing done twice, the same bytes every time.

    list the files -> hash their bytes -> share out what is new -> decode and write -> manifest
                      (Ray Data)                                  (Ray Data)

What goes into which shard is decided before anything is decoded: new photos are ordered by the
hash of their bytes and cut into shards of `shard_rows`, and a shard is named by the hash of what is
meant for it. One task reads, decodes and writes one shard, a few megabytes at a time. So names and
bytes do not depend on the number of workers; a shard that is in place need not be made again; and a
run that was stopped goes on where it was. The manifest comes last.
"""

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fsspec

from tintlab.data import manifest
from tintlab.data.ab_statistics import merged
from tintlab.data.images import Undecodable
from tintlab.data.manifest import Manifest, Parameters, ShardEntry, Smallest
from tintlab.data.prepare_tasks import PrepareConfig, hash_task, parameters_of, shard_task
from tintlab.data.quarantine import Quarantined, read_quarantine, write_quarantine
from tintlab.data.shard_writer import ShardSummary
from tintlab.data.shards import open_shards, verify
from tintlab.data.sources import Source, list_sources
from tintlab.data.split import RULE, SPLITS
from tintlab.data.storage import full_uri, resolve
from tintlab.errors import ConflictError, EnvironmentFault, IntegrityError

DIGESTS_PER_TASK = 512
"""Files one task hashes: long against the 10 ms a Ray Data task costs, short against a run."""

_QUIET = {
    "ray.data._internal.execution.streaming_executor": logging.WARNING,  # "finished in 0.06 s"
    "ray.data._internal.progress": logging.ERROR,  # warns that its bars are off
}

_OURS = re.compile(
    r"(shard|quarantine)-[0-9a-f]{16}\.parquet"
    r"|\.((shard|quarantine)-[0-9a-f]{16}\.parquet|manifest\.json)\.tmp-[0-9a-f]+"
)


@dataclass(frozen=True)
class PrepareReport:
    """What became of every input: inputs = stored + duplicates + quarantined."""

    inputs: int
    stored: int
    """Inputs whose photo is in the data set, each photo counted once."""
    duplicates: int
    """Further inputs with exactly the bytes of a stored one."""
    quarantined: int
    reasons: dict[str, int]
    """Quarantined inputs by reason."""
    decoded: int
    """Inputs that were decoded by this call; the others were done before."""
    splits: dict[str, int]
    """Photos of the whole data set by split."""
    fingerprint: str
    seconds: float


__all__ = ["PrepareConfig", "PrepareReport", "plan", "prepare"]

Show = Callable[[str], None]


def plan(sources: list[str], out: str, config: PrepareConfig) -> int:
    """How many files `prepare` would take in; finds what would make it refuse, and changes nothing.

    Raises: as `prepare`.
    """
    inputs = list_sources(sources, out)
    fs, root = resolve(out)
    _existing(fs, root, parameters_of(config))
    return len(inputs)


def prepare(
    sources: list[str], out: str, config: PrepareConfig | None = None, show: Show | None = None
) -> PrepareReport:
    """Take photos into the data set at `out`, which is made, gone on with, or added to.

    Args: show: gets a line about the progress now and then.
    Raises: EnvironmentFault: a source is missing, there is no file, none of them is a photo, the
        storage fails, or Ray is not connected. ConflictError: `out` holds something else, or a data
        set with other parameters. IntegrityError: the data set that is there is damaged.
    """
    started_s = time.monotonic()
    config = config or PrepareConfig()
    show = show or _silent
    inputs = list_sources(sources, out)
    fs, root = resolve(out)
    old = _existing(fs, root, parameters_of(config))
    _require_ray()

    hashes = _hash_all(inputs, show)
    in_place = open_shards(out).source_hashes() if old else set()
    quarantine = read_quarantine(fs, root, old) if old else []
    refused = {file.sha256: file for file in quarantine if file.sha256}
    new: dict[str, Source] = {}
    for source in inputs:
        found = hashes[source.uri]
        if isinstance(found, str) and found not in in_place and found not in refused:
            new.setdefault(found, source)

    written_shards, decoded = _write_all(full_uri(fs, root), new, config, show)
    for _, summary in written_shards:
        for bad in summary.refused:
            refused[bad.sha256] = Quarantined(
                new[bad.sha256].name, bad.sha256, bad.reason, bad.message
            )
    stored = in_place | (new.keys() - refused.keys())
    counts, quarantined = _sorted_out(inputs, hashes, stored, refused)
    reasons = dict(sorted(Counter(file.reason for file in quarantined).items()))
    if not stored:
        _remove_leftovers(fs, root, keep=set())
        named = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise EnvironmentFault(
            f"none of the {len(inputs)} files in {', '.join(sources)} is a photo that can be "
            f"stored ({named}); give a folder that holds photos"
        )
    if old and not new:
        if problems := verify(out):
            raise IntegrityError(
                f"{out} is damaged: {'; '.join(problems)}; "
                "restore the files, or delete the folder and run tintlab prepare again"
            )
        result = old
    else:
        result = _manifest(fs, root, old, config, written_shards, [*quarantine, *quarantined])
        result.write(fs, root)
        _remove_leftovers(fs, root, keep=_files(result))
    return PrepareReport(
        inputs=len(inputs),
        stored=counts["stored"],
        duplicates=counts["duplicates"],
        quarantined=len(quarantined),
        reasons=reasons,
        decoded=decoded,
        splits=result.counts,
        fingerprint=result.fingerprint,
        seconds=time.monotonic() - started_s,
    )


def _existing(fs: fsspec.AbstractFileSystem, root: str, parameters: Parameters) -> Manifest | None:
    """The manifest at `out`; None if there is nothing, or only what an unfinished run left.

    Raises: ConflictError: other parameters, or something that is not ours.
    """
    uri = full_uri(fs, root)
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


def _require_ray() -> None:
    """Raises: EnvironmentFault: Ray is not connected; Ray Data would start one of its own."""
    import ray

    if not ray.is_initialized():
        raise EnvironmentFault("prepare needs Ray; call it inside tintlab.cluster.connect()")


def _hash_all(inputs: list[Source], show: Show) -> dict[str, str | Undecodable]:
    """The SHA-256 of every input by URI, or why it has none."""
    uris = [source.uri for source in inputs]
    tasks = [
        {"uris": uris[at : at + DIGESTS_PER_TASK]} for at in range(0, len(uris), DIGESTS_PER_TASK)
    ]
    hashes: dict[str, str | Undecodable] = {}
    for result in _run(hash_task, tasks):
        for uri, sha256, reason, message in result["digests"]:
            hashes[uri] = sha256 if sha256 is not None else Undecodable(reason, message)
        show(f"prepare: {len(hashes)} of {len(inputs)} files hashed")
    return hashes


def _write_all(
    out: str, new: dict[str, Source], config: PrepareConfig, show: Show
) -> tuple[list[tuple[ShardEntry, ShardSummary]], int]:
    """Write the shards of the photos that are new, in a fixed order; and how many were decoded.

    Raises: EnvironmentFault: the storage failed; the shards that are finished stay.
    """
    ordered = [(sha256, new[sha256].name) for sha256 in sorted(new)]
    tasks: list[dict[str, Any]] = []
    for at in range(0, len(ordered), config.shard_rows):
        share = ordered[at : at + config.shard_rows]
        key = manifest.digest_of([manifest.VERSION, parameters_of(config), share])
        photos = [(new[sha256].uri, name, sha256) for sha256, name in share]
        tasks.append({"out": out, "key": key, "photos": photos, "config": config.model_dump()})
    shards: dict[str, tuple[ShardEntry, ShardSummary]] = {}
    done = decoded = 0
    for result in _run(shard_task, tasks):
        if fault := result.get("fault"):
            raise EnvironmentFault(f"cannot write to {out}: {fault}; finished shards are kept")
        summary = ShardSummary.model_validate(result["summary"])
        shards[summary.key] = (ShardEntry.model_validate(result["entry"]), summary)
        done += result["photos"]
        decoded += result["decoded"]
        show(f"prepare: {done} of {len(new)} photos")
    return [shards[task["key"]] for task in tasks], decoded


def _run(
    function: Callable[[dict[str, Any]], dict[str, Any]], tasks: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Run tasks with Ray Data, one block each, and yield the results as they come.

    Tasks and results travel as JSON: Arrow would refuse file names that are not UTF-8.
    """
    from ray.data import DataContext, from_items

    if not tasks:
        return
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    with DataContext.current(context):
        items = [{"task": json.dumps(task)} for task in tasks]
        dataset = from_items(items, override_num_blocks=len(items)).map(
            _JsonTask(function), num_cpus=1
        )
        for row in dataset.iter_rows():
            yield json.loads(row["result"])


@dataclass(frozen=True)
class _JsonTask:
    """A function from JSON to JSON as Ray Data maps it."""

    function: Callable[[dict[str, Any]], dict[str, Any]]

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        return {"result": json.dumps(self.function(json.loads(row["task"])))}


def _sorted_out(
    inputs: list[Source],
    hashes: dict[str, str | Undecodable],
    stored: set[str],
    refused: dict[str, Quarantined],
) -> tuple[Counter[str], list[Quarantined]]:
    """What became of each input: stored, duplicate of a stored one, or in quarantine."""
    counts: Counter[str] = Counter()
    quarantined = []
    seen = set()
    for source in inputs:
        found = hashes[source.uri]
        if isinstance(found, Undecodable):
            quarantined.append(Quarantined(source.name, None, found.reason, found.message))
        elif found in stored:
            counts["duplicates" if found in seen else "stored"] += 1
            seen.add(found)
        else:
            bad = refused[found]
            quarantined.append(Quarantined(source.name, found, bad.reason, bad.message))
    assert len(inputs) == counts.total() + len(quarantined)
    return counts, quarantined


def _manifest(
    fs: fsspec.AbstractFileSystem,
    root: str,
    old: Manifest | None,
    config: PrepareConfig,
    new: list[tuple[ShardEntry, ShardSummary]],
    quarantined: list[Quarantined],
) -> Manifest:
    """The manifest of what is there and what was added; writes the quarantine table."""
    shards = [*(old.shards if old else []), *(entry for entry, _ in new if entry.rows)]
    parts = [summary for _, summary in new]
    counts = {
        split: (old.counts[split] if old else 0) + sum(part.counts[split] for part in parts)
        for split in SPLITS
    }
    smallest = {}
    for split in SPLITS:
        known = [part.smallest[split] for part in (old, *parts) if part and split in part.smallest]
        if known:
            smallest[split] = Smallest(
                height=min(size.height for size in known), width=min(size.width for size in known)
            )
    parameters = parameters_of(config)
    return Manifest(
        generation=old.generation + 1 if old else 1,
        parameters=parameters,
        split_rule=RULE,
        shards=shards,
        counts=counts,
        smallest=smallest,
        ab=merged([*([old.ab] if old else []), *(part.ab for part in parts)]),
        quarantine=write_quarantine(fs, root, quarantined),
        fingerprint=manifest.fingerprint(parameters, shards),
    )


def _files(result: Manifest) -> set[str]:
    """Names of the files that belong to a data set."""
    table = result.quarantine.table
    return {entry.name for entry in (*result.shards, *([table] if table else []))}


def _remove_leftovers(fs: fsspec.AbstractFileSystem, root: str, keep: set[str]) -> None:
    """Remove what interrupted runs left, and the folder if that leaves it empty."""
    fs.invalidate_cache()
    if not fs.exists(root):
        return
    for path in fs.ls(root, detail=False):
        name = path.rstrip("/").rsplit("/", 1)[1]
        if name not in keep and _OURS.fullmatch(name):
            fs.rm_file(path)
    if not keep:
        with suppress(OSError):  # not empty: then it was not ours alone
            fs.rmdir(root)


def _silent(line: str) -> None:
    """Progress that nobody watches."""
