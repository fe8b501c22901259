"""A tracked training in a process without Ray: WORKSPACE SHARDS NAME STEPS PAUSE_S.

Prints one JSON line: the seconds of every step, without the pause that is made after each.
"""

import json
import sys
import time

import torch

from tintlab.config import ExperimentConfig, Workspace
from tintlab.training.request import RunRequest
from tintlab.training.tracked import train_tracked

TINY = {
    "data.crop_px": 16,
    "evaluation.crop_px": 16,
    "bins.per_channel": 7,
    "model.depth": 1,
    "training.batch_size": 4,
}


def main(workspace: str, shards: str, name: str, steps: int, pause_s: float) -> None:
    torch.set_num_threads(1)
    seconds: list[float] = []
    began_s = time.perf_counter()

    def progressed(_: object) -> None:
        nonlocal began_s
        seconds.append(time.perf_counter() - began_s)
        time.sleep(pause_s)
        began_s = time.perf_counter()

    every = max(1, steps // 4)
    config = ExperimentConfig().replaced(
        {**TINY, "training.steps": steps, "training.eval_every_steps": every}
    )
    request = RunRequest("train", name, f"train/{name}", flush_timeout_s=5.0)
    train_tracked(config, Workspace.at(workspace), shards, request, on_progress=progressed)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]))
