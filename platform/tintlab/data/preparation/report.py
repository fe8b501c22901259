"""The report of a preparation, for machines and for people.

report.json       PrepareReport: what was counted
report.parquet    one row per input: what became of it, and why
report.html       the same counts with examples and pictures, in one file that needs no other
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tintlab.data.contact_sheet import ab_histogram, data_uri, evenly, thumbnails
from tintlab.data.decoding.reasons import NOTES, REASONS
from tintlab.data.preparation.account import QUARANTINED, Outcome, PrepareReport
from tintlab.data.shard_format.split import SPLITS
from tintlab.data.shards import Shards
from tintlab.data.storage import written
from tintlab.html_page import bars, figure, page, text

FORMAT, VERSION = "tintlab-prepare-report", 1

THUMBNAILS = 12
"""Pictures of each split, and of near-grey photos; pairs of copies."""
EXAMPLES = 20
"""Files named for each reason; report.parquet has all."""

SCHEMA = pa.schema([(name, pa.string()) for name in Outcome._fields])


def write_reports(
    fs: fsspec.AbstractFileSystem,
    root: str,
    report: PrepareReport,
    outcomes: Sequence[Outcome],
    shards: Shards,
) -> None:
    """Write the three files, each whole or not at all; older ones are replaced.

    Raises: OSError: the storage failed.
    """
    document = {"format": FORMAT, "version": VERSION, **asdict(report)}
    with written(fs, f"{root}/report.json") as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())
    columns = [list(column) for column in zip(*outcomes, strict=True)]
    with written(fs, f"{root}/report.parquet") as file:
        pq.write_table(pa.table(columns, schema=SCHEMA), file, compression="zstd")
    with written(fs, f"{root}/report.html") as file:
        file.write(html(report, outcomes, shards).encode())


def html(report: PrepareReport, outcomes: Sequence[Outcome], shards: Shards) -> str:
    """The page."""
    sums = [
        ("inputs", report.inputs),
        ("= stored", report.stored),
        ("+ duplicates", report.duplicates),
        ("+ quarantined", report.quarantined),
    ]
    near_grey = [(split, int(index)) for split in SPLITS for index in shards.near_grey(split)]
    some_grey = [near_grey[at] for at in evenly(len(near_grey), THUMBNAILS)]
    body = [
        "<h1>Preparation of Lab shards</h1>",
        f"<p>Data set <code>{text(report.fingerprint)}</code>, generation {report.generation}; "
        f"{report.decoded:,} photos decoded in {report.seconds:.1f} s.</p>",
        bars(sums, report.inputs),
        f"<p>{report.left_out:,} files were left out and are no inputs: hidden ones, and files in "
        "tars that are not images by name.</p>",
        "<h2>Quarantine</h2>",
        *_quarantine(report, outcomes),
        "<h2>What decoding had to do</h2>",
        _notes(report),
        "<h2>Near-grey photos</h2>",
        f"<p>{len(near_grey):,} photos have a mean chroma under "
        f"{shards.manifest.near_grey_chroma:g}. They are stored, and training leaves them out.</p>",
        _figures(shards, some_grey),
        "<h2>Copies in two splits</h2>",
        f"<p>{len(shards.copies):,} photos of train or val look like one of val or test. They are "
        "stored, and neither trained nor validated on. Each is followed by what it is a copy of."
        "</p>",
        _figures(shards, _pairs(shards)),
        "<h2>The data set</h2>",
    ]
    for split in SPLITS:
        chosen = [(split, index) for index in evenly(shards.count(split), THUMBNAILS)]
        body += [f"<h3>{split}: {shards.count(split):,} photos</h3>", _figures(shards, chosen)]
    histogram = data_uri(ab_histogram(shards.manifest.ab))
    body += [
        "<h3>Colours that are trained on</h3>",
        f'<img src="{histogram}" alt="histogram of a and b">',
    ]
    return page("Preparation of Lab shards", body)


def _pairs(shards: Shards) -> list[tuple[str, int]]:
    """Some copies, each before what it is a copy of."""
    chosen = [shards.copies[at] for at in evenly(len(shards.copies), THUMBNAILS)]
    pairs = []
    for copy in chosen:
        for split, name in ((copy.split, copy.id), (copy.copy_of_split, copy.copy_of)):
            pairs.append((split, shards.ids(split).index(name)))
    return pairs


def _quarantine(report: PrepareReport, outcomes: Sequence[Outcome]) -> list[str]:
    if not report.quarantined:
        return ["<p>Nothing.</p>"]
    examples: dict[str, list[Outcome]] = {reason: [] for reason in report.reasons}
    for item in outcomes:
        if item.outcome == QUARANTINED and len(examples[item.reason]) < EXAMPLES:
            examples[item.reason].append(item)
    parts = [bars(sorted(report.reasons.items(), key=lambda r: -r[1]), report.quarantined)]
    for reason, items in examples.items():
        rows = "".join(
            f"<tr><td><code>{text(item.path)}</code></td><td>{text(item.message)}</td></tr>"
            for item in items
        )
        count = report.reasons[reason]
        more = f", the first {EXAMPLES} of {count:,}" if count > EXAMPLES else ""
        parts.append(
            f"<details><summary>{text(reason)}{more}. {text(REASONS[reason])}</summary>"
            f"<table>{rows}</table></details>"
        )
    return parts


def _notes(report: PrepareReport) -> str:
    if not report.notes:
        return "<p>Nothing beside decoding.</p>"
    rows = "".join(
        f'<tr><td>{text(note)}</td><td class="n">{count:,}</td><td>{text(NOTES[note])}</td></tr>'
        for note, count in report.notes.items()
    )
    return f"<table>{rows}</table>"


def _figures(shards: Shards, photos: Sequence[tuple[str, int]]) -> str:
    return "".join(
        figure(data_uri(image), text(name)) for name, image in thumbnails(shards, photos)
    )
