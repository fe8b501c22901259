"""rollback: @champion goes back to the version it was before."""

import sys
from dataclasses import asdict, dataclass

from tintlab.command import StageCommand
from tintlab.console import Result


@dataclass(frozen=True)
class Command(StageCommand):
    """Point @champion at @previous again; exit 5 if there is nothing to go back to."""

    expect_champion: int | None = None
    """Refuse, with exit 5, if @champion is not this version."""
    reason: str = ""
    """Why; written into the audit log."""


def main(command: Command) -> Result:
    """Go back, and say from which version to which."""
    from tintlab.tracking.moves import going_back, require_champion, rollback
    from tintlab.tracking.registry import champion

    place = command.place
    if command.dry_run:
        holder = champion(place)
        require_champion(holder, command.expect_champion)
        target, leaving = going_back(place, holder)
        data = {"version": target.version, "champion": leaving.version, "run_id": target.run_id}
        return Result(
            data, f"@champion would go from version {leaving.version} to {target.version}"
        )
    done = rollback(place, command.expect_champion, command.reason)
    note = f" ({done.note})" if done.note else ""
    text = f"@champion is version {done.version} (run {done.run_id}), was {done.champion}{note}"
    before = f"version {done.previous_after}" if done.previous_after else "not set"
    return Result(asdict(done), f"{text}; @previous is {before}\nnext: tintlab models")


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["rollback", *sys.argv[1:]]))
