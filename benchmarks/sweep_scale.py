"""Whether the thousandth trial of a sweep costs what the first ones did.

    python benchmarks/sweep_scale.py [--quick]

One sweep of trials of two steps, two at once, through `tintlab sweep` with everything on: ledger
(SQLite), TPE, tracking, checkpoints. `first_tenth_s` and `last_tenth_s` are seconds per trial, by
the times at which the ledger says that trials ended, less their share of the time inside the
training loop; the start of the processes is before the first end, and counts in neither.
`driver_growth_mb` is what the driver's memory grew by after the first tenth, and `settle_s` the
time from the last trial's end to the end of the command. `report_s` is what the report takes to
render.
"""

import argparse
import tempfile
import threading
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import optuna
import psutil
from noop_sweep import loop_s, swept
from packaged_tiles import packaged_shards
from side_by_side import cores, report, show

from tintlab.cluster import connect
from tintlab.config import Workspace
from tintlab.sweep.records import SweepRecord
from tintlab.tracking.store import ensure_store

TRIALS, QUICK_TRIALS = 1000, 100
AT_ONCE = 2
SAMPLE_S = 0.5
NAME = "scale"


class DriverMemory(threading.Thread):
    """Resident memory of this process over time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []
        self._done = threading.Event()

    def run(self) -> None:
        process = psutil.Process()
        while not self._done.wait(SAMPLE_S):
            self.samples.append((time.time(), process.memory_info().rss / 1e6))

    def stop(self) -> None:
        self._done.set()
        self.join()

    def at(self, when_s: float) -> float:
        """MB at a time, by the nearest sample."""
        return min(self.samples, key=lambda sample: abs(sample[0] - when_s))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} trials")
    parser.add_argument("--trials", type=int)
    given = parser.parse_args()
    trials = given.trials or (QUICK_TRIALS if given.quick else TRIALS)
    with packaged_shards() as shards, tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(f"{folder}/workspace")
        ensure_store(place)
        inside_s = loop_s(shards.uri, max(1, cores() // AT_ONCE)) / AT_ONCE
        memory = DriverMemory()
        memory.start()
        with connect(place):
            swept(place, shards.uri, NAME, trials, AT_ONCE)
            ended_s = time.time()
        memory.stop()
        ends_s = sorted(end.timestamp() for end in ends_of(place))
        tenth = trials // 10
        for number, (start, end) in enumerate(pairwise([*ends_s[:-1:tenth], ends_s[-1]]), 1):
            show(f"tenth {number}: {(end - start) / tenth:.3f} s a trial")
        rendered_s = report_s(place)
    first_s = (ends_s[tenth] - ends_s[0]) / tenth - inside_s
    last_s = (ends_s[-1] - ends_s[-1 - tenth]) / tenth - inside_s
    metrics = {
        "trials": trials,
        "first_tenth_s": first_s,
        "last_tenth_s": last_s,
        "settle_s": ended_s - ends_s[-1],
        "driver_mb": memory.at(ends_s[-1]),
        "driver_growth_mb": memory.at(ends_s[-1]) - memory.at(ends_s[tenth]),
        "report_s": rendered_s,
    }
    ratio = {"last_over_first_tenth": last_s / first_s}
    print(report("sweep_scale", metrics, {}, ratio, ("ray", "optuna", "mlflow")))


def ends_of(place: Workspace) -> list[datetime]:
    """When each trial was told to the study."""
    study = optuna.load_study(study_name=NAME, storage=place.study_url)
    return [trial.datetime_complete for trial in study.trials if trial.datetime_complete]


def report_s(place: Workspace) -> float:
    """Seconds to read the record of the sweep and render its report."""
    from tintlab.sweep.html_report import write_report

    began_s = time.perf_counter()
    write_report(record_of(place), Path(place.root) / "reports" / NAME)
    return time.perf_counter() - began_s


def record_of(place: Workspace) -> SweepRecord:
    """What the ledger knows of the sweep."""
    from tintlab.sweep.opening import stored_record

    return stored_record(place, NAME)


if __name__ == "__main__":
    main()
