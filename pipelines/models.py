"""models: the registry's versions, with their aliases and where they came from."""

import sys
from dataclasses import asdict, dataclass

from tintlab.command import StageCommand
from tintlab.console import Result, table


@dataclass(frozen=True)
class Command(StageCommand):
    """List the registered versions, the newest first, and how each became what it is."""

    history: bool = False
    """Also list every promotion, refusal and rollback, the oldest first."""


def main(command: Command) -> Result:
    """Print the table of versions."""
    from tintlab.tracking.lineage import history, registered

    versions = registered(command.place)
    entries = history(versions)
    if not versions:
        return Result({"versions": [], "history": []}, "nothing is registered yet: tintlab promote")
    rows = [
        [
            one.version,
            " ".join(f"@{alias}" for alias in one.aliases),
            one.registered,
            one.lineage.run_id,
            one.lineage.sweep or "",
            (one.lineage.data or "")[:12],
            (one.lineage.git_revision or "")[:12],
            "" if one.lineage.test_bits is None else one.lineage.test_bits,
        ]
        for one in versions
    ]
    heads = ["version", "aliases", "registered", "run", "sweep", "data", "git", "test bits/dim"]
    text = table(heads, rows)
    if command.history:
        events = [[e.when, e.who, e.kind, e.champion or "", e.version, e.reason] for e in entries]
        text += "\n\n" + table(["when", "who", "what", "champion", "version", "reason"], events)
    data = {"versions": [asdict(one) for one in versions], "history": [asdict(e) for e in entries]}
    return Result(data, text)


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["models", *sys.argv[1:]]))
