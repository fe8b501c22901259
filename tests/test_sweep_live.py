"""What a person sees while a sweep runs, however many trials it has."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from sweep_records import SPACE, finished, opened, reported, started

from tintlab.sweep.live import ROWS, LiveSweep, _table, live_line
from tintlab.sweep.records import SweepRecord


def running_sweep(folder: Path, trials: int) -> SweepRecord:
    """So many complete trials, the last of which is the best, and one of two seeds that runs."""
    space = SPACE.model_copy(update={"replicates": 2})
    ledger = opened(folder, started(space, num_trials=trials + 1))
    for number in range(trials):
        finished(ledger, 9.0 - number / 10, 9.0 - number / 10)
    reported(ledger, ledger.ask(), 0, 3.5)
    return ledger.record()


def test_a_line_says_how_far_it_is_and_what_is_best(tmp_path: Path) -> None:
    line = live_line(running_sweep(tmp_path, 2))
    assert line == "2 complete, 0 stopped of 3; best 8.9000 (#1); running #2/0@10"


def test_a_table_fits_a_terminal_with_the_best_on_top_and_what_runs_below(tmp_path: Path) -> None:
    out = StringIO()
    Console(file=out, width=120).print(_table(running_sweep(tmp_path, 20)))
    text = out.getvalue()
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("#")]
    assert len(rows) == ROWS
    assert (rows[0], rows[-1]) == ("#19", "#20")
    assert "How deep?" in text
    assert "10/400/0" in text
    assert "schedule.peak_lr" in text


def test_elsewhere_than_on_a_terminal_lines_are_few_and_notices_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = running_sweep(tmp_path, 1)
    with LiveSweep() as live:
        for _ in range(50):
            live.show(record)
        live.notice("a node has died")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [live_line(record), "a node has died"]
