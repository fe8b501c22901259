"""What runs in the process of a Tune trial: one training, and what Tune is told of it.

A run on one worker trains in this process, which the next run takes over: on two cores that costs
about one second per run, against about 25 for a TorchTrainer. A run on several workers gets one,
and this process only passes on what they report.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from ray import tune

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import ConfigError
from tintlab.sweep.space import VARIANT
from tintlab.tracking.store import first_line
from tintlab.training.board import WATCH_EVERY_S, BoardLink
from tintlab.training.failures import TrainingDiverged, TrainingStopped, failure_class
from tintlab.training.request import RunRequest

FLUSH_TIMEOUT_S = 5.0
"""How long a run's end waits for the tracking store; the end of the sweep sends the rest."""

FAILURE, KIND, INTERRUPTED, HOPELESS = "failure", "kind", "interrupted", "hopeless"
"""What a run may report last: why it failed and what class of failure that is; that it was told to
stop and has a checkpoint; that every other trial would fail as it did."""

ELAPSED_S, STEP, RUN_ID, REPORTED = "elapsed_s", "step", "run_id", "reported"
"""What every report has: seconds since the run began in this process, where it is, whose it is, and
the names of its metrics."""


class NeverReported(ConfigError):
    """What is to rank the trials is no metric of theirs."""


def trial(payload: dict[str, Any], shards_uri: str, board: Any) -> None:
    """One run; what it raises, and what kills it, another try may get past."""
    config = ExperimentConfig.model_validate(payload["config"])
    train = _here if config.training.workers == 1 else _on_workers
    began_s = time.monotonic()

    def tell(result: dict[str, Any]) -> None:
        tune.report({**result, ELAPSED_S: time.monotonic() - began_s})

    def on_report(step: int, metrics: dict[str, float], run_id: str) -> None:
        _require_reported(payload["metrics"], metrics, step)
        tell({**metrics, STEP: step, RUN_ID: run_id, REPORTED: list(metrics)})

    try:
        train(config, payload, shards_uri, board, on_report)
    except TrainingStopped:
        tell({INTERRUPTED: True})
    except Exception as error:
        said = {FAILURE: first_line(error), KIND: failure_class(error)}
        tell({**said, HOPELESS: True} if isinstance(error, NeverReported) else said)


OnReport = Callable[[int, dict[str, float], str], None]


def _here(
    config: ExperimentConfig,
    payload: dict[str, Any],
    shards_uri: str,
    board: Any,
    on_report: OnReport,
) -> None:
    """Train in this process."""
    import torch

    from tintlab.training.loop import Report
    from tintlab.training.tracked import train_tracked

    cpus = tune.get_context().get_trial_resources().required_resources.get("CPU", 1.0)
    torch.set_num_threads(max(1, int(cpus)))
    link = BoardLink(board, 0, config.training.hang_timeout_s)

    def reported(report: Report, run_id: str) -> None:
        if report.finished:
            link.close()  # what is left, such as telling the tracking store, may take its time
        else:
            link.alive()
        on_report(report.step, report.metrics, run_id)
        if not report.finished:
            link.alive()  # Tune's answer may take its time, too

    try:
        train_tracked(
            config,
            Workspace(root=payload["workspace"]),
            shards_uri,
            _request(payload),
            on_report=reported,
            stop=link.asked_to_stop,
        )
    finally:
        link.close()


def _on_workers(
    config: ExperimentConfig,
    payload: dict[str, Any],
    shards_uri: str,
    board: Any,
    on_report: OnReport,
) -> None:
    """Train on Ray Train workers, which this process waits for."""
    import ray

    from tintlab.interrupts import Interruptible
    from tintlab.training.fit import fit

    said: SimpleQueue[tuple[int, dict[str, float], str]] = SimpleQueue()
    request = _request(payload)

    def stop() -> bool:
        stops = [board.asked_to_stop.remote(), board.is_behind.remote(request.identity)]
        return any(ray.get(stops))

    training = Interruptible(
        lambda: fit(
            config,
            Workspace(root=payload["workspace"]),
            shards_uri,
            request,
            on_report=lambda *report: said.put(report),
            stop=stop,
        )
    )
    # Told to Tune from this thread: Tune ends a run by an exit from its report.
    while training.running:
        with suppress(Empty):
            on_report(*said.get(timeout=WATCH_EVERY_S))
    while not said.empty():
        on_report(*said.get())
    training.wait(lambda: False, 0.0)


def _request(payload: dict[str, Any]) -> RunRequest:
    number, replicate = payload["number"], payload["replicate"]
    tags = {
        "sweep_id": payload["sweep"],
        "trial_id": str(number),
        "replicate": str(replicate),
    }
    if payload[VARIANT]:
        tags[VARIANT] = payload[VARIANT]
    name = f"{payload['sweep']}-{number:03d}"
    return RunRequest(
        experiment=payload["experiment"],
        name=f"{name}-{replicate}" if payload["replicates"] > 1 else name,
        identity=payload["identity"],
        parent=payload["parent"],
        tags=tags,
        flush_timeout_s=FLUSH_TIMEOUT_S,
    )


def _require_reported(wanted: list[str], metrics: dict[str, float], step: int) -> None:
    """Raises: NeverReported: one that decides is missing. TrainingDiverged: it is no number."""
    for name in wanted:
        if name not in metrics:
            reported = ", ".join(sorted(key for key in metrics if key.startswith("val/")))
            raise NeverReported(
                f"the metric {name} is never reported; a validation here reports {reported}"
            )
        if math.isnan(metrics[name]):
            raise TrainingDiverged(step, name, metrics[name], metrics.get("lr", 0.0), None)
