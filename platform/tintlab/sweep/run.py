"""A sweep through Ray Tune: the ledger asks, Tune schedules, each trial trains in its own process.

One-worker trials train inside the Tune trial's process and the processes are reused: on two cores
that costs about one second per trial, against about 25 for a TorchTrainer inside every trial.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tintlab.cluster import storage_of
from tintlab.config import ExperimentConfig, Workspace
from tintlab.data.shards import open_shards
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.settings import TrainingConfig
from tintlab.sweep.ledger import Ledger, TrialRecord
from tintlab.sweep.question import Question
from tintlab.sweep.report import live_line
from tintlab.sweep.space import VARIANT, SearchSpace
from tintlab.tracking.reading import run_of
from tintlab.tracking.runs import Status, open_run, set_final_status
from tintlab.tracking.store import first_line
from tintlab.tracking.sync import sync
from tintlab.training.failures import failure_class
from tintlab.training.loop import Report
from tintlab.training.perceptual import require_trunk
from tintlab.training.request import RunRequest
from tintlab.training.tracked import train_tracked

STOP_GRACE_S = 120
"""How long a reused process may take to end a stopped trial: it closes its run first."""

FLUSH_TIMEOUT_S = 10.0
"""How long a trial's end waits for the tracking store; the end of the sweep sends the rest."""

ASHA_REDUCTION = 3
"""One trial in three goes on past a rung (Li et al. 2020, ASHA, uses 4; sweeps here are small)."""

RETRIES = 2
"""How often a trial goes on from its checkpoint that failed for reasons outside of it."""

FAILURE = "failure"
"""What a trial reports, last, that would fail again however often it is tried."""

MLFLOW_STATUS: dict[str, Status] = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class SweepRequest:
    """What to run: a question under a name, on a base experiment, with a budget."""

    question: Question
    base: ExperimentConfig
    name: str
    num_trials: int
    trials_at_once: int = 2
    seed: int = 0


def run_sweep(
    request: SweepRequest,
    workspace: Workspace,
    shards_uri: str,
    show: Callable[[str], None] = lambda line: None,
) -> Ledger:
    """Run what is missing of a sweep, or continue it; needs a connected Ray.

    Args: show: called with a line of progress after every report.
    Raises: ConfigError: the space cannot run, or the name belongs to another space.
        EnvironmentFault: the cluster cannot hold one trial.
    """
    space = request.question.space
    request.question.check(request.base)
    for point in space.first_points() or [{}]:  # before trials of which each could only fail
        require_trunk(space.experiment(request.base, point).loss)
    if request.base.training.workers != 1:
        raise ConfigError("a sweep's trials train on one worker; leave training.workers at 1")
    manifest = open_shards(shards_uri).manifest
    if workspace.is_local:
        Path(workspace.root).mkdir(parents=True, exist_ok=True)
    ledger = Ledger(
        workspace.study_url, request.name, space, request.base, request.seed, manifest.fingerprint
    )
    ledger.close_halfway()
    identity = f"sweep/{request.name}"
    parent = open_run(
        workspace,
        experiment=request.question.name,
        name=request.name,
        identity=identity,
        tags={"question": request.question.text},
    )
    parent.log_dataset(manifest.fingerprint, shards_uri, manifest.counts)
    parent.log_params({"metric": space.metric, "mode": space.mode, "seed": request.seed})
    search = LedgerSearch(ledger, request, workspace, identity, show)
    try:
        if search.remaining:
            _tune(search, request, workspace, shards_uri)
    except BaseException:  # the same command goes on with the same parent run
        parent.close("KILLED")
        raise
    try:
        _settle_runs(workspace, ledger, request.question.name)
    except EnvironmentFault as error:
        show(f"{error}; tintlab track sync sends what is missing")
    best = ledger.ranked()[0]
    if best.score is not None:
        parent.log_metrics({f"best/{space.metric.removeprefix('val/')}": best.score}, 0)
        parent.set_tags({"best_run_id": best.run_id or "", "best_trial": str(best.number)})
    parent.close("FINISHED")
    return ledger


def _settle_runs(workspace: Workspace, ledger: Ledger, experiment: str) -> None:
    """See to it that every trial's run is whole and has the status that the ledger knows.

    What a trial's process left unsent is sent once it is gone: Tune does not wait for the process
    of the last trial it stops, which may still be sending.

    Raises: EnvironmentFault: the store does not answer, or is too slow for all of it.
    """
    deadline_s = time.monotonic() + STOP_GRACE_S
    for record in ledger.records():
        while sync(workspace, [record.identity]).still_open and time.monotonic() < deadline_s:
            time.sleep(0.2)
        run_id = record.run_id or run_of(workspace, experiment, record.identity)
        if run_id and not record.run_id:
            ledger.found_run(record.number, run_id)
        if run_id and record.state in MLFLOW_STATUS:
            set_final_status(workspace, run_id, MLFLOW_STATUS[record.state])
        if time.monotonic() > deadline_s:
            raise EnvironmentFault(f"the tracking store {workspace.tracking_uri} is slow")


class LedgerSearch(Searcher):
    """Tune's view of the ledger: what to run next, and where to write what happened."""

    def __init__(
        self,
        ledger: Ledger,
        request: SweepRequest,
        workspace: Workspace,
        parent: str,
        show: Callable[[str], None],
    ) -> None:
        space = request.question.space
        super().__init__(metric=space.metric, mode=space.mode)
        self._ledger, self._request, self._show = ledger, request, show
        self._payload = {
            "workspace": workspace.root,
            "parent": parent,
            "rungs": rung_steps(request.base.training),
        }
        self._interrupted = ledger.unfinished()
        self._missing = request.num_trials - len(ledger.records())
        self._numbers: dict[str, int] = {}
        self.remaining = len(self._interrupted) + max(0, self._missing)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial: an interrupted one if there is any, else a new one."""
        if self._interrupted:
            record = self._interrupted.pop(0)
        elif self._missing > 0:
            self._missing -= 1
            record = self._ledger.ask()
        else:
            return Searcher.FINISHED
        self._numbers[trial_id] = record.number
        self._ledger.begin(record.number)
        config = self._experiment(record)
        return {
            **self._payload,
            "number": record.number,
            "experiment": self._request.question.name,
            "sweep": self._request.name,
            "identity": record.identity,
            "variant": record.values.get(VARIANT),
            "config": config.model_dump(),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a report."""
        self._record(trial_id, result)
        self._say()

    def _say(self) -> None:
        self._show(live_line(self._ledger.ranked(), self._request.num_trials))

    def _record(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.metric in result:
            metrics = {name: result[name] for name in result["reported"]}
            number = self._numbers[trial_id]
            self._ledger.report(number, result["step"], metrics, result["run_id"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record the end: complete, stopped early, or failed."""
        number = self._numbers[trial_id]
        if result and not error:  # Tune passes the result that stops a trial here only
            self._record(trial_id, result)
        if error or result is None:
            reason = f"infrastructure, {RETRIES + 1} times; see its MLflow run"
            self._ledger.finish(number, "failed", reason)
        elif FAILURE in result:
            self._ledger.finish(number, "failed", result[FAILURE])
        elif self.metric not in result:
            self._ledger.finish(number, "failed", f"the metric {self.metric} was never reported")
        elif result["step"] < self._experiment(self._recorded(number)).training.steps:
            self._ledger.finish(number, "stopped")
        else:
            self._ledger.finish(number, "complete")
        self._say()

    def _recorded(self, number: int) -> TrialRecord:
        return next(record for record in self._ledger.records() if record.number == number)

    def _experiment(self, record: TrialRecord) -> ExperimentConfig:
        return self._request.question.space.experiment(self._request.base, record.values)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""


def _tune(
    search: LedgerSearch, request: SweepRequest, workspace: Workspace, shards_uri: str
) -> None:
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(STOP_GRACE_S)
    # Ray's own snapshots are never read back; every five minutes is rarely enough not to matter.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "300")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the command, 130
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer one prints to stdout even at 0
    # A trial that failed for good reports why, and no metric.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    training = request.base.training
    gpus = training.gpus_per_worker
    have = ray.cluster_resources()
    resources = {"CPU": 1.0, "GPU": gpus} if gpus else {"CPU": _cpus(request.trials_at_once)}
    for kind, each in resources.items():
        if have.get(kind, 0.0) < each:
            raise EnvironmentFault(
                f"one trial needs {each:g} {kind}, the cluster has {have.get(kind, 0.0):g}; "
                "lower training.gpus_per_worker or use a larger cluster"
            )
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Tune writes a trial's configuration into its snapshots, and a URI may hold a password.
    in_memory = tune.with_parameters(trial, shards_uri=shards_uri)
    tuner = tune.Tuner(
        tune.with_resources(in_memory, resources),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler_of(request.question.space, training),
            num_samples=search.remaining,
            max_concurrent_trials=request.trials_at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=request.name,
            verbose=0,
            callbacks=[],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            **storage_of(workspace),
        ),
    )
    tuner.fit()


def rung_steps(training: TrainingConfig) -> list[int]:
    """The steps at which ASHA compares trials, all of which every trial reports.

    No rung at the last step: a trial that got there is complete, with a model.
    """
    steps, step = [], training.eval_every_steps
    while step < training.steps:
        steps.append(step)
        step *= ASHA_REDUCTION
    return steps


def scheduler_of(space: SearchSpace, training: TrainingConfig) -> TrialScheduler:
    """What stops trials that are behind: ASHA, if the space wants it and there is a rung."""
    if space.stopping == "none" or not rung_steps(training):
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="rung",
        metric=space.metric,
        mode=space.mode,
        max_t=training.steps - 1,
        grace_period=training.eval_every_steps,
        reduction_factor=ASHA_REDUCTION,
        stop_last_trials=False,
    )


def result_of(report: Report, run_id: str, rungs: list[int]) -> dict[str, Any]:
    """A report as Tune carries it; it says `rung` only where trials are to be compared.

    ASHA would enter a later step into the rung it passed, and with it a trial that looks in between
    (at cycle ends) or goes on from there after an interruption: more steps than the others had.
    """
    rung = {"rung": report.step} if report.step in rungs else {}
    own = {"step": report.step, "run_id": run_id, "reported": list(report.metrics)}
    return {**report.metrics, **own, **rung}


def _cpus(trials_at_once: int) -> float:
    """CPUs of a trial that has no GPU: the cluster's shared out, and no more than a node has."""
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return float(max(1, min(max(nodes), sum(nodes) // trials_at_once)))


def trial(payload: dict[str, Any], shards_uri: str) -> None:
    """One trial, in a Tune trial's process; raises what another try may get past."""
    import torch

    torch.set_num_threads(int(tune.get_context().get_trial_resources().required_resources["CPU"]))
    number = payload["number"]

    tags = {"sweep_id": payload["sweep"], "trial_id": str(number)}
    if payload["variant"]:
        tags["variant"] = payload["variant"]

    def on_report(report: Report, run_id: str) -> None:
        tune.report(result_of(report, run_id, payload["rungs"]))

    request = RunRequest(
        experiment=payload["experiment"],
        name=f"{payload['sweep']}-{number:03d}",
        identity=payload["identity"],
        parent=payload["parent"],
        tags=tags,
        flush_timeout_s=FLUSH_TIMEOUT_S,
    )
    config = ExperimentConfig.model_validate(payload["config"])
    workspace = Workspace(root=payload["workspace"])
    try:
        train_tracked(config, workspace, shards_uri, request, on_report=on_report)
    except Exception as error:
        kind = failure_class(error)
        if kind == "infrastructure":
            raise
        tune.report({FAILURE: f"{kind.replace('_', ' ')}: {first_line(error)}"})
