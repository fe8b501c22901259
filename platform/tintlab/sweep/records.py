"""What a sweep has found so far, as plain values: read from the ledger, shown by the report."""

import statistics
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["running", "complete", "stopped", "failed"]
"""Of a run or of a whole trial. `running` is also what was interrupted, and goes on; `stopped` is
early stopping."""

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class RunRecord:
    """One training of a trial's configuration: one seed, one MLflow run."""

    replicate: int
    """0 for the first seed, 1 for the second."""
    seed: int
    identity: str
    """Under which its MLflow run and checkpoints are found again."""
    state: State
    attempts: int
    step: int
    """Of its newest report."""
    run_id: str | None
    """None until the tracking store has told it."""
    metrics: dict[str, float]
    """The newest report."""
    curve: dict[int, float]
    """The leading metric by step."""
    seconds: float
    """Spent in training, over all attempts."""
    reason: str | None = None
    """Why it failed, on one line."""
    failure: str | None = None
    """The class of the failure: out_of_memory, non_finite, data, settings, environment, code,
    infrastructure."""


@dataclass(frozen=True)
class TrialRecord:
    """One configuration, trained once for each replicate."""

    number: int
    values: dict[str, Any]
    """What was searched, by dotted key; `variant` is the name of a variant."""
    state: State
    runs: tuple[RunRecord, ...]
    """Those that have begun, by replicate."""
    metric: str
    """The leading metric, which `score` is about."""

    @property
    def complete(self) -> tuple[RunRecord, ...]:
        """The runs that got to the last step."""
        return tuple(run for run in self.runs if run.state == "complete")

    @property
    def score(self) -> float | None:
        """Mean of the leading metric over complete runs; else the newest value of the first run."""
        if self.complete:
            return self.mean(self.metric)
        newest = [run.metrics[self.metric] for run in self.runs if self.metric in run.metrics]
        return newest[0] if newest else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the leading metric over the seeds; None with fewer than two."""
        values = [run.metrics[self.metric] for run in self.complete]
        return statistics.stdev(values) if len(values) > 1 else None

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the complete runs, or the runs there are."""
        runs = self.complete or self.runs
        values = [run.metrics[metric] for run in runs if metric in run.metrics]
        return statistics.fmean(values) if values else None

    @property
    def step(self) -> int:
        """How far its furthest run is."""
        return max((run.step for run in self.runs), default=0)

    @property
    def seconds(self) -> float:
        """Spent in training all its runs."""
        return sum((run.seconds for run in self.runs), 0.0)

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        return next((run.reason for run in self.runs if run.reason), None)

    def best_run(self, mode: Mode) -> RunRecord | None:
        """The complete run with the best leading metric: the one to promote."""
        pick = min if mode == "min" else max
        return pick(self.complete, key=lambda run: run.metrics[self.metric], default=None)


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as a whole."""

    name: str
    question: str
    """The question that the space asks."""
    space: str
    """Name of the search space, or its file."""
    metric: str
    mode: Mode
    objectives: dict[str, Mode]
    """All objectives, the leading metric first."""
    reference: dict[str, Any]
    """Values of searched keys: the trials that have them are what the others are to beat."""
    searched: tuple[str, ...]
    trials: tuple[TrialRecord, ...]
    """By number."""
    num_trials: int
    replicates: int
    seed: int
    base: dict[str, Any]
    """The configuration before anything is searched, by dotted key."""
    shards_uri: str
    data_fingerprint: str
    code: dict[str, str]
    """`git`: revision, with `+` if files were changed; `hash`: of the code that trains."""
    overrides: tuple[str, ...]
    """Differences that somebody accepted when the sweep was continued, a line each."""
    wall_s: float
    """Time that drivers of this sweep have run."""
    ended: str | None
    """Why it ended, on one line; None while there is more to do."""
    storage: str = ""
    """The database that was named for it, without its password."""

    @property
    def ranked(self) -> list[TrialRecord]:
        """Complete trials best first, then stopped ones (further first), running, failed."""
        sign = 1.0 if self.mode == "min" else -1.0
        order: dict[State, int] = {"complete": 0, "stopped": 1, "running": 2, "failed": 3}

        def place(trial: TrialRecord) -> tuple[float, ...]:
            score = sign * trial.score if trial.score is not None else 0.0
            further = -float(trial.step) if trial.state == "stopped" else 0.0
            return (float(order[trial.state]), further, score, float(trial.number))

        return sorted(self.trials, key=place)

    @property
    def best(self) -> TrialRecord | None:
        """The winner, if any trial is complete."""
        first = self.ranked[:1]
        return first[0] if first and first[0].state == "complete" else None
