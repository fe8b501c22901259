"""prepare: photos -> Lab shards."""

import sys
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro
from tyro.conf import Positional

from tintlab.command import StageCommand, require_photos
from tintlab.console import ProgressLine, Result, say, table
from tintlab.data.prepare_config import PrepareConfig


@dataclass(frozen=True)
class Command(StageCommand):
    """Turn photos into Lab shards with a manifest and a report; safe to stop and run again."""

    sources: Positional[tuple[str, ...]] = ()
    """Photos, folders, globs, tar shards, Parquet files, or @FILE with one of these per line."""
    out: str | None = None
    """Folder or URI of the data set; default the workspace's own."""
    image_column: str | None = None
    """Column of image bytes in Parquet files, where several could be meant."""
    config: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)


def main(command: Command) -> Result:
    """Prepare the photos; exit 4 if some could not be stored."""
    require_photos(command.sources)
    from tintlab.cluster import connect
    from tintlab.data.prepare import plan, prepare

    sources, out = list(command.sources), command.out or command.place.shards
    if command.dry_run:
        found = plan(sources, out, command.config, command.image_column)
        return Result({"inputs": found, "out": out}, f"{found} photos would go to {out}")
    if "://" in out and not out.startswith("file://"):
        say(f"prepare: {out} is not guarded against a second preparation; run one at a time")
    with connect(command.place), ProgressLine() as line:
        report = prepare(sources, out, command.config, line.show, command.image_column)
    photos, grey, copies = report.splits, report.near_grey, report.copies
    rows = [[split, photos[split], grey[split], copies[split]] for split in photos]
    text = (
        f"{report.inputs} inputs = {report.stored} stored + {report.duplicates} duplicates + "
        f"{report.quarantined} quarantined, in {out}\n"
        + table(["split", "photos", "near-grey", "copies"], rows)
    )
    if report.quarantined:
        text += "\n\n" + table(["quarantined", "files"], list(report.reasons.items()))
    text += f"\n\nreport: {out}/report.html"
    return Result({**asdict(report), "out": out}, text, exit_code=4 if report.quarantined else 0)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["prepare", *sys.argv[1:]]))
