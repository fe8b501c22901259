"""The record of a sweep: an Optuna study in a real database.

What a trial is, where it stands, and where its runs and checkpoints are is written here before the
action it describes happens. Ray Tune only schedules; a sweep is continued from this record alone.

    study        "sweep": what it was started with; "driver 0", ...: who ran it, and for how long;
                 "ended": why it ended
    trial        a configuration. "values": what was drawn, written last; "run 0", ...: its
                 trainings, one for each seed; intermediate values: the curve of run 0;
                 "curve 1 100": the leading metric of run 1 at step 100

One process writes it (holder.py), and has all of it in memory: a report costs two writes and no
read, however many trials there are.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from threading import RLock
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError
from tintlab.sweep.code import hash_of
from tintlab.sweep.records import RunRecord, State, SweepRecord, TrialRecord
from tintlab.sweep.samplers import sampler_of
from tintlab.sweep.space import SearchSpace
from tintlab.sweep.started import Started
from tintlab.sweep.study import Draw, without_password
from tintlab.tracking.locks import this_process

STATES: dict[TrialState, State] = {
    TrialState.WAITING: "running",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}

SWEEP, ENDED, VALUES = "sweep", "ended", "values"


def study_of(storage: BaseStorage, name: str, space: SearchSpace) -> optuna.Study:
    """The study `name`, created if there is none."""
    directions = [
        StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE
        for mode in space.directions.values()
    ]
    with suppress(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(storage=storage, study_name=name, directions=directions)
    return optuna.load_study(storage=storage, study_name=name)


@dataclass
class _Trial:
    """A configuration as this process knows it."""

    number: int
    id: int
    """Optuna's own, by which it is written without a search."""
    values: dict[str, Any]
    state: State
    runs: dict[int, RunRecord] = field(default_factory=dict)
    ended: TrialRecord | None = None
    """The record of an ended one, which changes no more."""


class Ledger:
    """A study as this process has it in memory; `opened` gives one that may be written."""

    def __init__(self, study: optuna.Study, started: Started) -> None:
        self.study, self.started, self.name = study, started, study.study_name
        self._storage: BaseStorage = study._storage
        self._lock = RLock()
        self._drivers: list[float] = []
        """Seconds that each process has run the sweep."""
        self._points = started.question.space.first_points()
        attrs = study.user_attrs
        while (driver := attrs.get(f"driver {len(self._drivers)}")) is not None:
            self._drivers.append(driver["seconds"])
        self._ended: str | None = attrs.get(ENDED)
        self._trials = [_known(trial, attrs) for trial in study.get_trials(deepcopy=False)]

    @classmethod
    def opened(cls, study: optuna.Study, now: Started, accept_changes: bool = False) -> "Ledger":
        """The study to be written by this process alone, new or to be continued.

        Raises: ConfigError: something differs from what it was started with. ConflictError: another
            question has this name. IntegrityError: another version of tintlab wrote it.
        """
        before = cls.started_with(study)
        if before:
            now = before.continued(now, study.study_name, accept_changes)
        if before != now:
            study.set_user_attr(SWEEP, now.plain())
        ledger = cls(study, now)
        ledger._take_up()
        return ledger

    @staticmethod
    def started_with(study: optuna.Study) -> Started | None:
        """What the sweep was started with; None if it was not yet.

        Raises: IntegrityError: another version of tintlab wrote it.
        """
        plain = study.user_attrs.get(SWEEP)
        if plain is None and not study.get_trials(deepcopy=False):
            return None
        return Started.of(plain or {}, study.study_name)

    @classmethod
    def existing(cls, storage: BaseStorage, name: str) -> "Ledger":
        """The study `name` as it is, to be read.

        Raises: ConfigError: there is none of that name; names those that there are.
        """
        try:
            study = optuna.load_study(storage=storage, study_name=name)
        except KeyError:
            names = ", ".join(optuna.get_all_study_names(storage)) or "none yet"
            raise ConfigError(f"no sweep {name!r}; there are: {names}") from None
        return cls(study, Started.of(study.user_attrs.get(SWEEP) or {}, name))

    def _take_up(self) -> None:
        """Complete what a process that died was in the middle of."""
        for trial in self._trials:
            if trial.state == "running" and not trial.values:
                self._draw(trial)
            failed = any(run.state == "failed" for run in trial.runs.values())
            for run in list(trial.runs.values()):
                if failed and run.state == "running":  # its seed cannot save the configuration
                    self.end(trial.number, run.replicate, "stopped")
            self._decide(trial)

    # What is to be done

    @property
    def asked(self) -> int:
        """How many configurations have been drawn."""
        return len(self._trials)

    def interrupted(self) -> list[tuple[int, int]]:
        """(trial, replicate) of runs that have begun and not ended; at the start, they go on."""
        return [
            (trial.number, run.replicate)
            for trial in self._trials
            for run in trial.runs.values()
            if run.state == "running"
        ]

    def due(self, number: int) -> list[int]:
        """Replicates of a trial that may begin now.

        The first seed decides, where trials are stopped early, whether a configuration is worth the
        others; those are never stopped, so that means are over the same seeds for all.
        """
        trial, space = self._trials[number], self.started.question.space
        if trial.state != "running" or any(
            run.state in ("failed", "stopped") for run in trial.runs.values()
        ):
            return []
        if not trial.runs:
            return [0] if space.stopping != "none" else list(range(space.replicates))
        if space.stopping != "none" and trial.runs[0].state != "complete":
            return []
        return [each for each in range(space.replicates) if each not in trial.runs]

    def ask(self) -> int:
        """A new configuration, recorded before its number is returned.

        The sampler is seeded by the trial's number, so a continued sweep draws what an
        uninterrupted one would have drawn from the same record.
        """
        with self._lock:
            number = len(self._trials)
            known = number < len(self._points)
            first = {"fixed_params": self._points[number]} if known else {}
            self.study.add_trial(create_trial(state=TrialState.RUNNING, system_attrs=first))
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(
                self.study._study_id, number
            )
            self._trials.append(_Trial(number, trial_id, {}, "running"))
            self._draw(self._trials[-1])
            return number

    def _draw(self, trial: _Trial) -> None:
        space = self.started.question.space
        self.study.sampler = sampler_of(space, self.started.seed, trial.number)
        trial.values = space.suggest(Draw(self.study, trial.id), self.started.base)
        self._storage.set_trial_user_attr(trial.id, VALUES, trial.values)

    def values(self, number: int) -> dict[str, Any]:
        """What was drawn for a trial."""
        return self._trials[number].values

    def experiment(self, number: int, replicate: int) -> ExperimentConfig:
        """What a run trains.

        Raises: ConfigError: the config refuses the values.
        """
        space, base = self.started.question.space, self.started.base
        config = space.experiment(base, self._trials[number].values)
        return config.replaced({"training.seed": config.training.seed + replicate})

    # What happens

    def begin(self, number: int, replicate: int, seed: int) -> RunRecord:
        """Count an attempt at a run, before it starts."""
        with self._lock:
            run = self._trials[number].runs.get(replicate) or RunRecord(
                replicate=replicate,
                seed=seed,
                identity=f"{self.name}/{number}/{replicate}",
                state="running",
                attempts=0,
                step=0,
                run_id=None,
                metrics={},
                curve={},
                seconds=0.0,
            )
            return self._keep(number, replace(run, attempts=run.attempts + 1))

    def report(
        self,
        number: int,
        replicate: int,
        step: int,
        metrics: dict[str, float],
        run_id: str,
        seconds: float,
    ) -> None:
        """Keep what a run reported at a step.

        A step that is recorded already is not recorded again: Tune passes a trial's last result
        twice, and a continued trial repeats the report of its checkpoint.
        """
        with self._lock:
            run, trial = self._trials[number].runs[replicate], self._trials[number]
            if step in run.curve:
                return
            value = float(metrics[self.started.question.space.metric])
            told = replace(run, step=step, metrics=metrics, seconds=seconds)
            # Before the point: a process that dies in between reports the step once more.
            self._keep(number, replace(told, run_id=run_id or run.run_id))
            if replicate == 0:  # what Optuna's samplers know a stopped trial by
                self._storage.set_trial_intermediate_value(trial.id, step, value)
            else:
                self._storage.set_trial_user_attr(trial.id, f"curve {replicate} {step}", value)
            run.curve[step] = value

    def end(
        self,
        number: int,
        replicate: int,
        state: State,
        seconds: float = 0.0,
        reason: str | None = None,
        failure: str | None = None,
    ) -> None:
        """Record how a run ended, or with `running` that it was interrupted, and what that makes of
        its configuration; a run that has ended stays as it is."""
        with self._lock:
            run = self._trials[number].runs[replicate]
            if run.state == "running":
                seconds = max(seconds, run.seconds)
                ended = replace(run, state=state, seconds=seconds, reason=reason, failure=failure)
                self._keep(number, ended)
                self._decide(self._trials[number])

    def found_run(self, number: int, replicate: int, run_id: str) -> None:
        """Note a run that ended before the tracking store had told its id."""
        with self._lock:  # Optuna's record of an ended trial can no longer be written
            self.study.set_user_attr(f"run_id {number}/{replicate}", run_id)
            trial = self._trials[number]
            trial.runs[replicate] = replace(trial.runs[replicate], run_id=run_id)
            trial.ended = None

    def _keep(self, number: int, run: RunRecord) -> RunRecord:
        trial = self._trials[number]
        if trial.state == "running":
            plain = {key: value for key, value in asdict(run).items() if key != "curve"}
            self._storage.set_trial_user_attr(trial.id, f"run {run.replicate}", plain)
        trial.runs[run.replicate] = run
        return run

    def _decide(self, trial: _Trial) -> None:
        """Tell the study how a configuration ended, when the last of its runs has."""
        space, runs = self.started.question.space, trial.runs.values()
        states = {run.state for run in runs}
        if trial.state != "running" or not runs or "running" in states:
            return
        if "failed" in states:
            self._tell(trial, TrialState.FAIL)
        elif "stopped" in states:
            self._tell(trial, TrialState.PRUNED)
        elif len(runs) == space.replicates:
            record = self._record(trial)
            means = [record.mean(metric) for metric in space.directions]
            assert None not in means  # a run that does not report them all is failed
            self._tell(trial, TrialState.COMPLETE, [float(mean or 0.0) for mean in means])

    def _tell(self, trial: _Trial, state: TrialState, values: list[float] | None = None) -> None:
        self._storage.set_trial_state_values(trial.id, state, values)
        trial.state = STATES[state]

    # The sweep as a whole

    def passed(self, seconds: float) -> None:
        """Count the seconds of this process; `drive` keeps them."""
        with self._lock:
            self._drivers[-1] = seconds

    def drive(self) -> Callable[[float], None]:
        """Record that this process runs the sweep; returns what keeps its seconds."""
        number = len(self._drivers)
        self._drivers.append(0.0)

        def beat(seconds: float) -> None:
            self.passed(seconds)
            who = {**this_process(), "seconds": seconds}
            self.study.set_user_attr(f"driver {number}", who)

        beat(0.0)
        return beat

    def conclude(self, ended: str | None) -> None:
        """Record why the sweep ended; None: there is more to do."""
        if ended != self._ended:
            self._ended = ended
            self.study.set_user_attr(ENDED, ended)

    def curves(self, number: int) -> tuple[dict[int, float], list[dict[int, float]]]:
        """The curve of a trial's first run, and those of all the other trials."""
        with self._lock:
            curves = {t.number: t.runs[0].curve for t in self._trials if 0 in t.runs}
            own = curves.pop(number)
            return dict(own), [dict(curve) for curve in curves.values()]

    def record(self) -> SweepRecord:
        """All of it, as it is now."""
        started, space = self.started, self.started.question.space
        with self._lock:
            trials = tuple(self._record(trial) for trial in self._trials if trial.values)
            wall_s = sum(self._drivers, 0.0)
        return SweepRecord(
            name=self.name,
            question=started.question.text,
            space=started.question.name,
            metric=space.metric,
            mode=space.mode,
            objectives=space.directions,
            reference=space.reference,
            searched=tuple(space.choices),
            trials=trials,
            num_trials=started.num_trials,
            replicates=space.replicates,
            seed=started.seed,
            base=started.base.flat(),
            shards_uri=started.shards_uri,
            data_fingerprint=started.data_fingerprint,
            code={"git": started.git, "hash": hash_of(started.code)},
            overrides=started.overrides,
            wall_s=wall_s,
            ended=self._ended,
            storage=without_password(started.settings.storage),
        )

    def _record(self, trial: _Trial) -> TrialRecord:
        if trial.ended:
            return trial.ended
        runs = [replace(run, curve=dict(run.curve)) for _, run in sorted(trial.runs.items())]
        metric = self.started.question.space.metric
        record = TrialRecord(trial.number, trial.values, trial.state, tuple(runs), metric)
        trial.ended = record if trial.state != "running" else None
        return record


def _known(trial: FrozenTrial, of_study: dict[str, Any]) -> _Trial:
    """A trial from the database."""
    attrs = trial.user_attrs
    known = _Trial(trial.number, trial._trial_id, attrs.get(VALUES, {}), STATES[trial.state])
    curves: dict[int, dict[int, float]] = {0: dict(sorted(trial.intermediate_values.items()))}
    for key, value in attrs.items():
        kind, *where = key.split(" ")
        if kind == "curve":
            curves.setdefault(int(where[0]), {})[int(where[1])] = value
    for key, plain in attrs.items():
        if key.startswith("run "):
            replicate = plain["replicate"]
            late = of_study.get(f"run_id {trial.number}/{replicate}")
            run = RunRecord(**plain, curve=dict(sorted(curves.get(replicate, {}).items())))
            known.runs[replicate] = replace(run, run_id=run.run_id or late)
    return known
