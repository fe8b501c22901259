"""Three Tune trials with a TorchTrainer in each and a slow Tune callback.

STORAGE REPORTS CALLBACK_S LIMIT_S: reports of each trial, length of the callback, end of patience.
Prints one JSON line: seconds of the whole (null: patience ended), and how many trials ended well.
Each trial's stacks at the end of patience are in STORAGE/stacks-<trial>.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from typing import Any

TRIALS = 3


def one_epoch(config: dict[str, Any]) -> None:
    """What each Ray Train worker does."""
    import ray.train

    for step in range(config["reports"]):
        ray.train.report({"loss": 1 / (step + 1)})


def trial(config: dict[str, Any]) -> None:
    """What each Tune trial does."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    stacks = os.open(f"{config['storage']}/stacks-{config['number']}", os.O_CREAT | os.O_WRONLY)
    faulthandler.dump_traceback_later(config["patience_ends"] - time.time(), file=stacks)
    TorchTrainer(
        one_epoch,
        train_loop_config={"reports": config["reports"]},
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name=f"trial-{config['number']}",
            storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def main(storage: str, reports: int, callback_s: float, limit_s: float) -> None:
    import ray
    from ray import tune

    class SlowCallback(tune.Callback):
        def on_trial_result(self, *_: Any, **__: Any) -> None:
            time.sleep(callback_s)

    ray.init(num_cpus=2, resources={"trial_slot": TRIALS}, include_dashboard=False)
    threading.Timer(limit_s, give_up).start()
    began_s = time.monotonic()
    results = tune.Tuner(
        tune.with_resources(trial, {"trial_slot": 1}),
        param_space={
            "storage": storage,
            "reports": reports,
            "patience_ends": time.time() + limit_s - 5,
            "number": tune.grid_search(list(range(TRIALS))),
        },
        run_config=tune.RunConfig(name="slow", storage_path=storage, callbacks=[SlowCallback()]),
    ).fit()
    seconds = time.monotonic() - began_s
    ended_well = sum(not result.error and "loss" in (result.metrics or {}) for result in results)
    print(json.dumps({"seconds": seconds, "ended_well": ended_well}), flush=True)
    os._exit(0)  # the timer is still waiting


def give_up() -> None:
    """End the whole process; Ray's end with it."""
    print(json.dumps({"seconds": None, "ended_well": 0}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
