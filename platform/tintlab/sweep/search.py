"""Tune's view of the ledger: what to run next, where to write what happened, whom to stop."""

import heapq
from collections.abc import Callable
from threading import RLock
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tintlab.errors import ConfigError
from tintlab.sweep.budget import budget_reached
from tintlab.sweep.ledger import Ledger
from tintlab.sweep.space import VARIANT
from tintlab.sweep.stopping import is_behind
from tintlab.sweep.trial import (
    ELAPSED_S,
    FAILURE,
    HOPELESS,
    INTERRUPTED,
    KIND,
    REPORTED,
    RUN_ID,
    STEP,
)

RETRIES = 2
"""How often a run goes on from its checkpoint that failed for reasons outside of it."""


class LedgerSearch(Searcher):
    """What Tune asks for runs, and tells what became of them; every answer is in the ledger first.

    Args: payload: what every run gets.
    """

    def __init__(self, ledger: Ledger, payload: dict[str, Any]) -> None:
        space = ledger.started.question.space
        super().__init__(metric=space.metric, mode=space.mode)
        self._ledger, self._space, self._payload = ledger, space, payload
        self._stop_all: Callable[[], object] = lambda: None
        self._stop_run: Callable[[str], object] = lambda identity: None
        self._lock = RLock()
        self._waiting = ledger.interrupted()
        for trial in ledger.record().trials:
            self._waiting += [(trial.number, each) for each in ledger.due(trial.number)]
        heapq.heapify(self._waiting)
        self._running: dict[str, tuple[int, int]] = {}
        self._seconds_before: dict[str, float] = {}
        self._deaths: dict[tuple[int, int], int] = {}
        self._behind: set[tuple[int, int]] = set()
        self._last_words: dict[str, tuple[str, str]] = {}
        self._stopping = False
        self.ended: str | None = None
        """The budget that ended the sweep."""
        self.hopeless: str | None = None
        """Why every trial would fail."""

    def stops(self, stop_all: Callable[[], object], stop_run: Callable[[str], object]) -> None:
        """How runs are asked to keep what they have and end: all, or one by its identity."""
        self._stop_all, self._stop_run = stop_all, stop_run

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        with self._lock:
            return not self._waiting and self._ledger.asked >= self._ledger.started.num_trials

    def look(self) -> None:
        """Stop all when a budget is reached; asked every second."""
        with self._lock:
            if self._stopping or (self.is_done and not self._running):
                return
            self.ended = budget_reached(self._ledger.started.settings, self._ledger.record())
            if self.ended:
                self.stop()

    def stop(self) -> None:
        """Start nothing more, and let what runs keep what it has and end."""
        with self._lock:
            self._stopping = True
        self._stop_all()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next run: an interrupted one if there is any, another seed, a new configuration."""
        with self._lock:
            while not self._stopping:
                if not self._waiting and not self.is_done:
                    number = self._ledger.ask()
                    self._waiting = [(number, each) for each in self._ledger.due(number)]
                if not self._waiting:
                    break
                if payload := self._begun(trial_id, *heapq.heappop(self._waiting)):
                    return payload
            # Another seed, or another try, may come of what runs.
            return None if self._running else str(Searcher.FINISHED)

    def _begun(self, trial_id: str, number: int, replicate: int) -> dict[str, Any] | None:
        """What a run gets; None if it cannot be one, which the space's check has not found."""
        try:
            config = self._ledger.experiment(number, replicate)
        except ConfigError as error:
            self._ledger.begin(number, replicate, self._ledger.started.base.training.seed)
            self._ledger.end(number, replicate, "failed", 0.0, str(error), "settings")
            self.look()
            return None
        self._running[trial_id] = (number, replicate)
        run = self._ledger.begin(number, replicate, config.training.seed)
        self._seconds_before[trial_id] = run.seconds
        return {
            **self._payload,
            "number": number,
            "replicate": replicate,
            "replicates": self._space.replicates,
            "metrics": list(self._space.directions),
            "identity": run.identity,
            VARIANT: self._ledger.values(number).get(VARIANT),
            "config": config.model_dump(),
        }

    def reported(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Record a report; whether the run is behind the others, and is to end."""
        if REPORTED not in result:
            return False
        number, replicate = self._running[trial_id]
        metrics = {name: result[name] for name in result[REPORTED]}
        seconds = self._seconds(trial_id, result)
        step = result[STEP]
        self._ledger.report(number, replicate, step, metrics, result[RUN_ID], seconds)
        if replicate > 0 or self._stopping:
            return False
        training = self._ledger.experiment(number, replicate).training
        if not is_behind(self._space, training, *self._ledger.curves(number), step):
            return False
        if training.workers == 1:
            return True
        # Tune would drop the process at once, and with it workers that have a run to close.
        self._behind.add((number, replicate))
        self._stop_run(f"{self._ledger.name}/{number}/{replicate}")
        return False

    def died(self, trial_id: str, kind: str, reason: str) -> None:
        """Why the process of a run ended; comes just before `on_trial_complete`."""
        self._last_words[trial_id] = (kind, reason)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has passed it on, before this."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record the end: complete, stopped early, interrupted, or failed."""
        with self._lock:
            number, replicate = self._running.pop(trial_id)
            result = result or {}
            seconds = self._seconds(trial_id, result)
            if error or FAILURE in result or not result:
                unknown = ("infrastructure", "its process ended without a word")
                said = self._last_words.pop(trial_id, unknown)
                kind, reason = (result[KIND], result[FAILURE]) if FAILURE in result else said
                self._failed(number, replicate, seconds, kind, reason)
                if HOPELESS in result:
                    self.hopeless = reason
                    self.stop()
            elif INTERRUPTED in result:
                behind = (number, replicate) in self._behind
                self._ledger.end(number, replicate, "stopped" if behind else "running", seconds)
            elif result[STEP] < self._ledger.experiment(number, replicate).training.steps:
                self._ledger.end(number, replicate, "stopped", seconds)
            else:
                self._ledger.end(number, replicate, "complete", seconds)
            for each in self._ledger.due(number):
                if (number, each) not in self._waiting:
                    heapq.heappush(self._waiting, (number, each))
            self.look()

    def _failed(self, number: int, replicate: int, seconds: float, kind: str, reason: str) -> None:
        run = (number, replicate)
        if kind == "infrastructure" and self._deaths.get(run, 0) < RETRIES:
            self._deaths[run] = self._deaths.get(run, 0) + 1
            self._ledger.end(number, replicate, "running", seconds)
            heapq.heappush(self._waiting, run)
            return
        if kind == "infrastructure":
            reason = f"{reason} ({RETRIES + 1} times)"
        self._ledger.end(number, replicate, "failed", seconds, reason, kind)

    def _seconds(self, trial_id: str, result: dict[str, Any]) -> float:
        return self._seconds_before[trial_id] + float(result.get(ELAPSED_S, 0.0))

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes snapshots of it that nobody reads, the ledger is the record."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""


class LedgerScheduler(FIFOScheduler):
    """Runs in the order they come, and ends those that are behind."""

    def __init__(self, search: LedgerSearch) -> None:
        super().__init__()
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Tune asks here first, before it tells the search."""
        behind = self._search.reported(trial.trial_id, result)
        return str(TrialScheduler.STOP if behind else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tune has the error by now, and the search hears only that there is one."""
        text = str(trial.get_error() or "").strip()
        lines = [line for line in text.splitlines() if line.strip()] or ["no reason is known"]
        memory = "low on memory" in text or "out of memory issue" in text
        kind = "out_of_memory" if memory else "infrastructure"
        self._search.died(trial.trial_id, kind, lines[-1].strip()[:300])
