"""A sweep while it runs: a table on a terminal, a line now and then elsewhere; on stderr."""

import sys
import time
from typing import TYPE_CHECKING

from tintlab.console import ProgressLine, say
from tintlab.redaction import redacted
from tintlab.sweep.records import SweepRecord, TrialRecord

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

ROWS = 12
"""Of the table: the best and what runs; a terminal is no taller than that for some."""


class LiveSweep:
    """What a person sees of a sweep while it runs."""

    def __init__(self) -> None:
        self._line = ProgressLine()
        self._live: Live | None = None
        self._began_s = time.monotonic()

    def __enter__(self) -> "LiveSweep":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was; what remains is the result."""
        if self._live:
            self._live.stop()

    def show(self, record: SweepRecord) -> None:
        """How far it is."""
        if self._live:
            self._live.update(_table(record), refresh=True)
        else:
            self._line.show(live_line(record))

    def notice(self, line: str) -> None:
        """What a person should know."""
        if self._live:
            self._live.console.print(redacted(line), markup=False)
        else:
            say(line)


def live_line(record: SweepRecord) -> str:
    """One line of progress."""
    running = " ".join(
        f"#{trial.number}{_seed(record, run.replicate)}@{run.step}"
        for trial in record.trials
        for run in trial.runs
        if run.state == "running"
    )
    best = record.best
    found = f"best {best.score:.4f} (#{best.number})" if best else "no score yet"
    return f"{_counts(record)}; {found}; running {running or '-'}"


def _counts(record: SweepRecord) -> str:
    counts = dict.fromkeys(("complete", "stopped", "failed"), 0)
    for trial in record.trials:
        if trial.state in counts:
            counts[trial.state] += 1
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return (
        f"{counts['complete']} complete, {counts['stopped']} stopped{failed} of {record.num_trials}"
    )


def _seed(record: SweepRecord, replicate: int) -> str:
    return f"/{replicate}" if record.replicates > 1 else ""


def _table(record: SweepRecord) -> "Table":
    from rich.table import Table
    from rich.text import Text

    running = [trial for trial in record.trials if trial.state == "running"]
    best = [trial for trial in record.ranked if trial.state != "running"]
    shown = best[: max(1, ROWS - len(running))]
    hours, rest = divmod(int(record.wall_s), 3600)
    title = f"{record.question}  {_counts(record)}, {hours}:{rest // 60:02d}:{rest % 60:02d}"
    grid = Table(title=Text(redacted(title)), title_justify="left", box=None, pad_edge=False)
    searched = [key for key in record.searched if any(key in t.values for t in record.trials)]
    for column in ("trial", "state", record.metric, *searched):
        grid.add_column(column)
    for trial in [*shown, *running]:
        values = [_short(trial.values.get(key, "")) for key in searched]
        score = f"{trial.score:.4f}" if trial.score is not None else ""
        cells = [f"#{trial.number}", _state(record, trial), score, *values]
        grid.add_row(*(Text(redacted(cell)) for cell in cells))
    return grid


def _state(record: SweepRecord, trial: TrialRecord) -> str:
    if trial.state == "running":
        steps = record.base["training.steps"]
        return ", ".join(
            f"{run.step}/{steps}{_seed(record, run.replicate)}"
            for run in trial.runs
            if run.state == "running"
        )
    return f"stopped at {trial.step}" if trial.state == "stopped" else trial.state


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
