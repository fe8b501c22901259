"""prepare: photos -> Lab shards."""

import sys
from dataclasses import asdict, dataclass

from tyro.conf import Positional

from tintlab.command import StageCommand, require_photos
from tintlab.console import ProgressLine, Result, table


@dataclass(frozen=True)
class Command(StageCommand):
    """Turn photos into Lab shards with a manifest; safe to run again."""

    sources: Positional[tuple[str, ...]] = ()
    """Photos, or folders of photos (searched recursively)."""
    out: str | None = None
    """Folder or URI of the data set; default the workspace's own."""
    short_side_px: int = 256
    """Photos are made this small on their short side, never larger."""


def main(command: Command) -> Result:
    """Prepare the photos; exit 4 if some could not be read."""
    require_photos(command.sources)
    from tintlab.cluster import connect
    from tintlab.data.prepare import PrepareConfig, plan, prepare

    out = command.out or command.place.shards
    config = PrepareConfig(short_side_px=command.short_side_px)
    if command.dry_run:
        found = plan(list(command.sources), out, config)
        return Result({"inputs": found, "out": out}, f"{found} files would go to {out}")
    with connect(command.place), ProgressLine() as line:
        report = prepare(list(command.sources), out, config, line.show)
    data = {**asdict(report), "out": out}
    rows = [[split, count] for split, count in report.splits.items()]
    text = (
        f"{report.inputs} inputs = {report.stored} stored + {report.duplicates} duplicates + "
        f"{report.quarantined} quarantined, in {out}\n" + table(["split", "photos"], rows)
    )
    return Result(data, text, exit_code=4 if report.quarantined else 0)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["prepare", *sys.argv[1:]]))
