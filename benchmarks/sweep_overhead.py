"""What a trial of a sweep costs beside its training, against Ray's documented pattern.

    python benchmarks/sweep_overhead.py [--quick]

Trials of two steps, one at a time. `seconds_per_trial` is the wall time of the whole sweep over its
trials, less the time inside the training loop, which is measured alone, in turns with the others
and in a process that is warm.

ours      `tintlab sweep` in a connected Ray: the ledger (SQLite), TPE, a tracked MLflow run with
          metrics, picture and model for each trial, checkpoints, processes reused
baseline  Tune with OptunaSearch, a function trainable that builds a TorchTrainer with one worker
          and TuneReportCallback, checkpoints, and Ray's MLflowLoggerCallback (SQLite), as Ray's
          guide to hyperparameter tuning has it since Train V2; the same training loop inside

The first trial of each sweep also pays for starting its processes. The baseline pays it for every
trial, so it is given few of them; ours pays once, for more.
"""

import argparse
import os
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import ray.train
from noop_sweep import loop_s, swept, trained
from packaged_tiles import packaged_shards
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch
from side_by_side import ROUNDS, cores, interleaved, report

from tintlab.cluster import connect
from tintlab.config import Workspace
from tintlab.tracking.store import ensure_store
from tintlab.training.loop import Report

TRIALS, BASELINE_TRIALS = 12, 2
QUICK_TRIALS, QUICK_BASELINE_TRIALS = 6, 1
METRIC = "val/bits_per_dim"

_turns = count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, few trials")
    quick = parser.parse_args().quick
    trials = QUICK_TRIALS if quick else TRIALS
    theirs = QUICK_BASELINE_TRIALS if quick else BASELINE_TRIALS
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with packaged_shards() as shards, tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(f"{folder}/workspace")
        ensure_store(place)  # making a tracking database takes seconds, and is no trial's doing
        plain = f"sqlite:///{folder}/mlflow.db"
        mlflow.set_tracking_uri(plain)
        mlflow.search_experiments()

        def ours() -> dict[str, float]:
            return {"s": swept(place, shards.uri, f"ours-{next(_turns)}", trials, 1) / trials}

        def baseline() -> dict[str, float]:
            return {"s": documented(Path(folder), plain, shards.uri, theirs) / theirs}

        def loop() -> dict[str, float]:
            return {"s": loop_s(shards.uri, cores())}

        with connect(place):
            found = interleaved(
                {"ours": ours, "baseline": baseline, "loop": loop}, rounds=1 if quick else ROUNDS
            )
    inside_s = found["loop"]["s"]
    beside = {name: found[name]["s"] - inside_s for name in ("ours", "baseline")}
    print(
        report(
            "sweep_overhead",
            {"seconds_per_trial": beside["ours"], "trials": trials, "loop_s": inside_s},
            {"seconds_per_trial": beside["baseline"], "trials": theirs},
            {"seconds_per_trial": beside["baseline"] / beside["ours"]},
            ("ray", "optuna", "mlflow"),
        )
    )


def documented(folder: Path, tracking_uri: str, shards_uri: str, trials: int) -> float:
    """Seconds of a sweep in Ray's documented way."""
    name = f"baseline-{next(_turns)}"
    tuner = tune.Tuner(
        # Hardly a CPU for the driver: one CPU for each of driver and worker would leave no room.
        tune.with_resources(driver, {"CPU": 0.01}),
        param_space={
            "peak_lr": tune.loguniform(1e-3, 1e-2),
            "shards": shards_uri,
            "folder": str(folder),
        },
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            search_alg=OptunaSearch(),
            num_samples=trials,
            max_concurrent_trials=1,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder / "ray"),
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=tracking_uri, experiment_name="baseline")],
        ),
    )
    began_s = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - began_s
    assert len(results) == trials
    assert results.num_errors == 0, results.errors
    assert all(METRIC in result.metrics for result in results)
    return seconds


def driver(config: dict[str, Any]) -> None:
    """A trial: it has its workers started, and passes on what they report."""
    trial = tune.get_context().get_trial_id()
    TorchTrainer(
        worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.9}),
        run_config=ray.train.RunConfig(
            name=f"train-{trial}",
            storage_path=f"{config['folder']}/train",
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def worker(config: dict[str, Any]) -> None:
    """What a worker does: the same training loop."""

    def on_report(found: Report) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(str(found.checkpoint))
        ray.train.report(dict(found.metrics), checkpoint=checkpoint)

    with tempfile.TemporaryDirectory() as folder:
        trained(config["shards"], Path(folder) / "run", on_report)


if __name__ == "__main__":
    main()
