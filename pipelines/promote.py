"""promote: a run's model -> the registry's @champion, if it is proven better."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tintlab.command import StageCommand
from tintlab.console import ProgressLine, Result
from tintlab.errors import ConfigError


@dataclass(frozen=True)
class Command(StageCommand):
    """Measure a run's model beside @champion on the test split, and let it follow if it passes."""

    run: str
    """The run id that train and sweep print; or a version such as @challenger or 3."""
    shards: str | None = None
    """Lab shards; default the workspace's own."""
    policy: Path | None = None
    """TOML file of what is asked for, as promotion.toml, which holds the defaults."""
    expect_champion: int | None = None
    """Refuse, with exit 5, if @champion is not this version; 0: if there is one."""
    force: bool = False
    """Promote whatever the gate says; needs --reason, which is written down."""
    reason: str = ""
    """Why --force."""
    workers: int = 1
    """Workers that measure, a core each; with more than one, on Ray. No figure depends on it."""


def main(command: Command) -> Result:
    """Promote, or exit 6 with the rules that were not passed."""
    if command.force != bool(command.reason.strip()):
        raise ConfigError("--force and --reason belong together; give both or neither")
    from tintlab.evaluation.gate import load_policy, rules_table
    from tintlab.tracking.promotion import promote

    place, policy = command.place, load_policy(command.policy)
    how = (command.dry_run, policy, command.expect_champion, command.reason.strip())
    with ProgressLine() as line:
        shards, shown = command.shards or place.shards, line.show
        done = promote(place, command.run, shards, *how, shown, command.workers, shown)
    text = f"@champion stays version {done.champion_version}: {done.verdict}"
    if done.changed:
        text = f"@champion is version {done.version} (run {done.run_id}): {done.verdict}"
    elif not done.is_champion:
        text = f"run {done.run_id} would be promoted: {done.verdict}"
    next_step = "" if command.dry_run else "\nnext: tintlab colorize PHOTO... --out DIR"
    return Result(asdict(done), f"{rules_table(done.rules)}\n{text}{next_step}")


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["promote", *sys.argv[1:]]))
