"""shards: look into Lab shards, or check every byte of them."""

import sys
from dataclasses import dataclass
from typing import Any, Literal

from tyro.conf import Positional

from tintlab.command import StageCommand
from tintlab.console import Result, table
from tintlab.errors import IntegrityError


@dataclass(frozen=True)
class Command(StageCommand):
    """show: figures, a contact sheet and the ab histogram. verify: every hash; exit 7 if wrong."""

    verb: Positional[Literal["show", "verify"]]
    """What to do."""
    uri: Positional[str | None] = None
    """Folder or URI of the data set; default the workspace's own."""
    out: str | None = None
    """show: folder or URI for the pictures; default reports/shards in the workspace."""


def main(command: Command) -> Result:
    """Show or verify a data set."""
    from tintlab.data.shards import open_shards, verify
    from tintlab.data.show import figures, show

    uri = command.uri or command.place.shards
    if command.verb == "verify":
        if problems := verify(uri):
            raise IntegrityError(f"{uri} is damaged: {'; '.join(problems)}")
        manifest = open_shards(uri).manifest
        data = {"shards": len(manifest.shards), "photos": sum(manifest.counts.values())}
        text = f"{uri} is whole: {data['shards']} shards, {data['photos']} photos"
        return Result({"uri": uri, **data, "fingerprint": manifest.fingerprint}, text)
    out = command.out or f"{command.place.reports}/shards"
    found = figures(open_shards(uri)) if command.dry_run else show(uri, out)
    return Result(found, _text(found))


def _text(data: dict[str, Any]) -> str:
    splits = [[name, *map(_cell, row.values())] for name, row in data["splits"].items()]
    channels = [[name, *values.values()] for name, values in data["channels"].items()]
    names = ["split", "photos", "near-grey", "copies", "height: least / median / most", "width"]
    head = f"{data['uri']}\n{data['fingerprint']}\n{data['shards']} shards, {data['bytes']:,} bytes"
    tables = [table([*names, "chroma"], splits), table(["train pixels", "mean", "std"], channels)]
    return "\n".join([head, *tables, data.get("contact_sheet", ""), data.get("ab_histogram", "")])


def _cell(value: Any) -> Any:
    return " / ".join(map(str, value)) if isinstance(value, tuple) else value


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["shards", *sys.argv[1:]]))
