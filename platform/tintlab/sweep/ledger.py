"""The record of a sweep: an Optuna study in a real database.

What a trial is, where it stands, and where its run and checkpoints are is written here before the
action it describes happens. Ray Tune only schedules; a sweep is continued from this record alone.
"""

import json
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError
from tintlab.sweep.space import SearchSpace, fingerprint

State = Literal["running", "complete", "stopped", "failed"]
STATES: dict[TrialState, State] = {
    TrialState.WAITING: "running",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger knows it."""

    number: int
    identity: str
    state: State
    values: dict[str, Any]
    """What was searched, by dotted key."""
    score: float | None
    """The deciding metric: final, or the last reported one of a stopped trial."""
    step: int
    run_id: str | None
    attempts: int
    metrics: dict[str, float]
    reason: str | None
    """Why it failed."""


class Ledger:
    """A study, opened or created; one process writes it."""

    def __init__(
        self, url: str, name: str, space: SearchSpace, base: ExperimentConfig, seed: int, data: str
    ) -> None:
        """Open the study `name`.

        Args: data: fingerprint of the data set.
        Raises: ConfigError: the study was made by another space, base configuration or data set.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        minimize, maximize = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
        self.study = optuna.create_study(
            storage=optuna.storages.RDBStorage(url),
            study_name=name,
            direction=minimize if space.mode == "min" else maximize,
            load_if_exists=True,
        )
        self.name, self.space, self.base, self.seed = name, space, base, seed
        self._check_same({"space": fingerprint(space, base), "data": data, "seed": seed})

    def _check_same(self, now: dict[str, Any]) -> None:
        before = self.study.user_attrs.get("made_of")
        if before is None:
            self.study.set_user_attr("base", json.dumps(self.base.flat()))
            self.study.set_user_attr("description", json.dumps(self.space.description()))
            self.study.set_user_attr("made_of", now)
            for point in self.space.first_points():
                self.study.enqueue_trial(point)
            return
        for what in ("space", "data", "seed"):
            if before[what] != now[what]:
                detail = self._difference() if what == "space" else f"{before[what]} -> {now[what]}"
                raise ConfigError(
                    f"sweep {self.name!r} was started with another {what} ({detail}); "
                    "give what it was started with to continue it, or another --name to start anew"
                )

    def _difference(self) -> str:
        base = json.loads(self.study.user_attrs["base"])
        now = self.base.flat()
        changed = [
            f"{key} {base.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(base.keys() | now.keys())
            if base.get(key) != now.get(key) and key not in self.space.search
        ]
        return changed[0] if changed else "the searched keys or their distributions differ"

    def identity(self, number: int) -> str:
        """The name under which a trial's run and checkpoints are found again."""
        return f"{self.name}/{number}"

    def unfinished(self) -> list[TrialRecord]:
        """Trials that were running when the last process ended; they go on."""
        return [record for record in self.records() if record.state == "running"]

    def ask(self) -> TrialRecord:
        """A new trial, recorded before it is returned.

        The sampler is seeded by the trial's number, so a continued sweep draws what an
        uninterrupted one would have drawn from the same record.
        """
        number = len(self.study.trials)
        with warnings.catch_warnings():  # group is "experimental" and the only way with When
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.seed * 100_003 + number, multivariate=True, group=True
            )
        trial = self.study.ask()
        values = self.space.suggest(trial, self.base)
        trial.set_user_attr("values", values)
        return self._record(self.study.trials[trial.number])

    def begin(self, number: int) -> None:
        """Count an attempt, before it starts."""
        attempts = self._frozen(number).user_attrs.get("attempts", 0)
        self._set(number, "attempts", attempts + 1)

    def report(self, number: int, step: int, metrics: dict[str, float], run_id: str) -> None:
        """Keep the deciding metric at a step, and the newest of all the others.

        A step that is recorded already is not recorded again: Tune passes a trial's last result
        twice, and a continued trial repeats the report of its checkpoint.
        """
        if step in self._frozen(number).intermediate_values:
            return
        trial = self._live(number)
        trial.report(metrics[self.space.metric], step)
        trial.set_user_attr("step", step)
        trial.set_user_attr("run_id", run_id)
        trial.set_user_attr("metrics", metrics)

    def found_run(self, number: int, run_id: str) -> None:
        """Note the run of a trial that ended before the tracking store had told its id."""
        self.study.set_user_attr(f"run_id {number}", run_id)

    def finish(self, number: int, state: State, reason: str | None = None) -> None:
        """Tell the study how a trial ended; a trial already told is left as it is."""
        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return
        if reason:
            self._set(number, "reason", reason)
        if state == "complete":
            score = frozen.intermediate_values[max(frozen.intermediate_values)]
            self.study.tell(number, score)
        elif state == "stopped":
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def records(self) -> list[TrialRecord]:
        """Every trial that got as far as having values, by number."""
        return [self._record(t) for t in self.study.trials if "values" in t.user_attrs]

    def ranked(self) -> list[TrialRecord]:
        """Finished trials best first, then stopped ones, then the rest."""
        sign = 1 if self.space.mode == "min" else -1
        order: dict[State, int] = {"complete": 0, "stopped": 1, "running": 2, "failed": 3}
        return sorted(
            self.records(),
            key=lambda r: (
                order[r.state],
                sign * r.score if r.score is not None else 0.0,
                r.number,
            ),
        )

    def close_halfway(self) -> None:
        """Forget trials whose process died between asking and recording their values."""
        for trial in self.study.trials:
            begun = not trial.state.is_finished() and trial.state != TrialState.WAITING
            if begun and "values" not in trial.user_attrs:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.trials[number]

    def _live(self, number: int) -> optuna.Trial:
        return optuna.Trial(self.study, self._frozen(number)._trial_id)

    def _set(self, number: int, key: str, value: Any) -> None:
        self._live(number).set_user_attr(key, value)

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        attrs = trial.user_attrs
        last = max(trial.intermediate_values, default=None)
        score = trial.value if trial.state == TrialState.COMPLETE else None
        if score is None and last is not None:
            score = trial.intermediate_values[last]
        return TrialRecord(
            number=trial.number,
            identity=self.identity(trial.number),
            state=STATES[trial.state],
            values=attrs["values"],
            score=score,
            step=attrs.get("step", 0),
            run_id=attrs.get("run_id") or self.study.user_attrs.get(f"run_id {trial.number}"),
            attempts=attrs.get("attempts", 0),
            metrics=attrs.get("metrics", {}),
            reason=attrs.get("reason"),
        )
