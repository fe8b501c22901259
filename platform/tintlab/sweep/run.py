"""A sweep through Ray Tune: the ledger asks, Tune schedules, each run trains in its own process."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tintlab.cluster import TRIAL_SLOT, connect, storage_of
from tintlab.config import Workspace
from tintlab.data.shards import open_shards
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.interrupts import Interruptible
from tintlab.settings import TrainingConfig
from tintlab.sweep.board import SweepBoard
from tintlab.sweep.conclusion import conclude, settle
from tintlab.sweep.ledger import Ledger
from tintlab.sweep.opening import OpenSweep
from tintlab.sweep.records import SweepRecord
from tintlab.sweep.search import LedgerScheduler, LedgerSearch
from tintlab.sweep.trial import trial
from tintlab.tracking.runs import open_run
from tintlab.training.perceptual import require_trunk
from tintlab.training.resources import fitting, wait_for_room

REUSE_GRACE_S = 120
"""How long a reused process may take to end a stopped run: it closes its MLflow run first."""

STOP_GRACE_S = 8.0
"""How long the first Ctrl-C waits for the steps that are being made and their checkpoints."""

LOOK_EVERY_S = 1.0
"""How often the budget is looked at, and the table is drawn anew."""

KEEP_EVERY_S = 5.0
"""How often the time is written down."""

PARENT_TIMEOUT_S = 1.0
"""How long the end of a sweep that was interrupted waits for the tracking store."""


def run_sweep(
    sweep: OpenSweep,
    workspace: Workspace,
    show: Callable[[SweepRecord], None] = lambda record: None,
    notice: Callable[[str], None] = lambda line: None,
) -> tuple[SweepRecord, Path | None]:
    """Run what is missing of a sweep, until it is complete or a budget ends it.

    Ctrl-C and SIGTERM let the steps that are being made end and be kept; a second one does not
    wait. Either way the sweep can be continued.

    Args: show: called with the sweep as it is, at most once a second; notice: with what a person
        should know.
    Returns: the sweep, and the page of its report, if that is a file.
    Raises: ConfigError: no trial can succeed. EnvironmentFault: the cluster cannot hold one run, or
        has no room for too long. KeyboardInterrupt: it was stopped.
    """
    ledger, started = sweep.ledger, sweep.ledger.started
    space = started.question.space
    for point in space.first_points() or [{}]:  # before runs of which each could only fail
        # Of the loss alone: half of a point's values need not be a config.
        loss = {k: v for k, v in space.settings(point).items() if k.startswith("loss.")}
        require_trunk(started.base.replaced(loss).loss)
    identity = f"sweep/{ledger.name}"
    parent = open_run(
        workspace,
        experiment=started.question.name,
        name=ledger.name,
        identity=identity,
        tags={"question": started.question.text},
    )
    counts = open_shards(started.shards_uri).manifest.counts
    parent.log_dataset(started.data_fingerprint, started.shards_uri, counts)
    parent.log_params(
        {
            "metric": space.metric,
            "mode": space.mode,
            "seed": started.seed,
            "replicates": space.replicates,
        }
    )
    payload = {
        "workspace": workspace.root,
        "parent": identity,
        "experiment": started.question.name,
        "sweep": ledger.name,
    }
    search = LedgerSearch(ledger, payload)
    try:
        with _driving(sweep, search, show):
            ended = _run_what_is_missing(search, ledger, workspace, notice)
        ledger.conclude(ended)
        try:
            settle(workspace, ledger, parent.run_id)
        except EnvironmentFault as error:
            notice(f"{error}; tintlab track sync sends what is missing")
        return ledger.record(), conclude(parent, ledger.record(), workspace, notice)
    except BaseException as error:  # the same command goes on with the same parent run
        parent.close("FAILED" if isinstance(error, ConfigError) else "KILLED", PARENT_TIMEOUT_S)
        raise


@contextmanager
def _driving(
    sweep: OpenSweep, search: LedgerSearch, show: Callable[[SweepRecord], None]
) -> Iterator[None]:
    """Every second inside the block: keep the time, look at the budget, show how it goes.

    Raises: ConflictError: another process has taken the sweep over.
    """
    began_s, beat, over = time.monotonic(), sweep.ledger.drive(), Event()

    def look() -> None:
        kept_s = 0.0
        while not over.wait(LOOK_EVERY_S):
            now_s = time.monotonic() - began_s
            sweep.ledger.passed(now_s)
            try:
                if now_s - kept_s >= KEEP_EVERY_S:
                    beat(now_s)
                    kept_s = now_s
                if sweep.owner:
                    sweep.owner.beat()
                search.look()
                show(sweep.ledger.record())
            except BaseException:  # nothing may be written any longer
                search.stop()
                raise

    watch = Interruptible(look)
    try:
        yield
    finally:
        over.set()
        watch.wait(lambda: False, 0.0)
        beat(time.monotonic() - began_s)
    show(sweep.ledger.record())


def _run_what_is_missing(
    search: LedgerSearch, ledger: Ledger, workspace: Workspace, notice: Callable[[str], None]
) -> str:
    """Why it ended."""
    search.look()
    if not search.is_done and not search.ended:
        ledger.conclude(None)
        with connect(workspace):
            _tune(search, ledger, workspace, notice)
    if search.hopeless:
        raise ConfigError(f"no trial of sweep {ledger.name!r} can succeed: {search.hopeless}")
    return search.ended or f"all {ledger.started.num_trials} trials have ended"


def _tune(
    search: LedgerSearch,
    ledger: Ledger,
    workspace: Workspace,
    notice: Callable[[str], None],
) -> None:
    training, at_once = ledger.started.base.training, ledger.started.trials_at_once
    require_nodes(training, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if training.workers > 1 and not ray.cluster_resources().get(TRIAL_SLOT):
        raise EnvironmentFault(
            f"no node of the cluster offers a {TRIAL_SLOT}, which a trial of several workers is "
            f"driven from; start its head with --resources '{{\"{TRIAL_SLOT}\": 8}}', as "
            "cluster.yaml does"
        )
    wait_for_room(training, notice)
    _settings_of_tune()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(SweepBoard).options(num_cpus=0, scheduling_strategy=here).remote()
    search.stops(board.ask_to_stop.remote, board.stop_run.remote)
    # Tune writes a run's configuration into its snapshots, and a URI may hold a password.
    uri = ledger.started.shards_uri
    in_memory = tune.with_parameters(trial, shards_uri=uri, board=board)
    tuner = tune.Tuner(
        tune.with_resources(in_memory, resources_of(training, at_once)),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=LedgerScheduler(search),
            num_samples=-1,  # until the search says that it is finished
            max_concurrent_trials=fitting(training, at_once, ray.cluster_resources()),
            reuse_actors=training.workers == 1,
        ),
        run_config=tune.RunConfig(
            name=ledger.name,
            verbose=0,
            callbacks=[],
            failure_config=tune.FailureConfig(max_failures=0),  # the ledger counts attempts
            **storage_of(workspace),
        ),
    )
    running = Interruptible(tuner.fit)

    def ask_to_stop() -> bool:
        notice("stopping after the steps that are being made; once more stops at once")
        search.stop()
        return True

    running.wait(ask_to_stop, STOP_GRACE_S)
    if running.interrupt:
        raise running.interrupt


def _settings_of_tune() -> None:
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(REUSE_GRACE_S)
    # Ray's own snapshots are never read back; every five minutes is rarely enough not to matter.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "300")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the command, 130
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer one prints to stdout even at 0
    # A run that failed for good reports why, and no metric.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Tune would hand AWS's keys to trials in a runtime environment, which Ray writes into its logs.
    # Processes of a Ray started here have them anyway, and a cluster's nodes have their own.
    aws = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(aws)


def require_nodes(training: TrainingConfig, nodes: list[dict[str, float]]) -> None:
    """Raises: EnvironmentFault: no node has the GPUs of one worker, however long one waits."""
    most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    if training.gpus_per_worker > most:
        raise EnvironmentFault(
            f"training.gpus_per_worker={training.gpus_per_worker:g}, but no node has more than "
            f"{most:g} GPU; lower it, or set it to 0 to train on CPUs, or use a larger cluster"
        )


def resources_of(training: TrainingConfig, at_once: int) -> dict[str, float]:
    """What Tune keeps for one run; one of several workers needs a process on the head node only,
    and its workers are Ray Train's."""
    if training.workers > 1:
        return {TRIAL_SLOT: 1.0}
    gpus = training.gpus_per_worker
    return {"CPU": 1.0, "GPU": gpus} if gpus else {"CPU": _cpus(at_once)}


def _cpus(trials_at_once: int) -> float:
    """CPUs of a trial that has no GPU: the cluster's shared out, and no more than a node has."""
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return float(max(1, min(max(nodes), sum(nodes) // trials_at_once)))
