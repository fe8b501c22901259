"""Steps per second of `tintlab train` against a bare PyTorch loop over the same model.

    python benchmarks/train_step.py [--quick]

Each turn trains the default model on the packaged photographs, in processes of its own:

ours          the command `tintlab train`: Ray Train with one worker, real shards, augmentation on,
              metrics sent to MLflow (SQLite). Steps per second are the slope between two of the
              metrics it logged, by their own times, after a warm-up and before the validation
unreachable   the same with a tracking server that is not there
bare          forward, backward, clipping, AdamW and moving average on one batch that is in memory
bare_update   the same without clipping and average, for comparison

ratio.steps_per_s is ours over bare, .../unreachable the other, each the median over turns of the
ratio within a turn. Starting is printed apart (metrics.startup_s, from the command to the end of
the first step) with its parts, as the command itself says them.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path

import torch
from mlflow import MlflowClient
from packaged_tiles import packaged_shards
from side_by_side import interleaved, report, show
from torch.nn.utils import clip_grad_norm_

from tintlab.config import ExperimentConfig
from tintlab.data.batches import train_batches
from tintlab.data.shards import open_shards
from tintlab.model.colorizer import Colorizer
from tintlab.training.objective import Objective
from tintlab.training.optimizer import adamw, update_ema

STEPS, WARM_UP_STEPS, TURNS = 200, 40, 5
QUICK_STEPS = 80
STARTED = r"first step after ([\d.]+) s: .*?([\d.]+), .*?([\d.]+), .*?([\d.]+)"
NOWHERE = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps, one turn")
    parser.add_argument("--bare", metavar="SHARDS", help="measure the bare loop, here")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--turns", type=int, default=TURNS)
    given = parser.parse_args()
    if given.bare:
        print(json.dumps(bare(given.bare, given.steps)))
        return
    steps = QUICK_STEPS if given.quick else given.steps
    turns = 1 if given.quick else given.turns
    rows: dict[str, list[float]] = {"bare": [], "ours": [], "unreachable": []}
    with packaged_shards() as shards, tempfile.TemporaryDirectory() as folder:
        number = count()
        # The first training in a workspace makes the tracking database, for some seconds.
        trained(Path(folder), "first", shards.uri, WARM_UP_STEPS + 20, {})

        def ours(name: str, **variables: str) -> dict[str, float]:
            run = f"{name}-{next(number)}"
            found = trained(Path(folder), run, shards.uri, steps, variables)
            rows[name].append(found["steps_per_s"])
            return found

        def bare_loop() -> dict[str, float]:
            found = in_new_process(shards.uri, steps)
            rows["bare"].append(found["steps_per_s"])
            return found

        found = interleaved(
            {
                "bare": bare_loop,
                "ours": partial(ours, "ours"),
                "unreachable": partial(ours, "unreachable", MLFLOW_TRACKING_URI=NOWHERE),
            },
            rounds=turns,
        )
    within = {
        name: statistics.median(a / b for a, b in zip(rows[name], rows["bare"], strict=True))
        for name in ("ours", "unreachable")
    }
    startup = found["ours"].pop("startup_s")
    found["unreachable"].pop("startup_s")
    parts = {key: found["ours"].pop(key) for key in list(found["ours"]) if key.endswith("_start_s")}
    metrics = {"startup_s": startup, **parts, "steps": steps}
    metrics |= {name: found[name]["steps_per_s"] for name in ("ours", "unreachable")}
    ratio = {"steps_per_s": within["ours"], "steps_per_s/unreachable": within["unreachable"]}
    print(report("train_step", metrics, found["bare"], ratio, ("torch", "ray", "mlflow")))


def trained(
    folder: Path, name: str, shards: str, steps: int, variables: dict[str, str]
) -> dict[str, float]:
    """One `tintlab train`; steps per second by the times of the metrics that it logged."""
    options = ["--training.steps", str(steps), "--training.eval-every-steps", str(steps)]
    command = [sys.executable, "-m", "pipelines", "train", "--name", name]
    done = subprocess.run(
        [*command, "--workspace", str(folder), "--shards", shards, *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    said = re.search(STARTED, done.stderr)
    assert said, done.stderr
    parts = dict(zip(("ray", "workers", "model"), map(float, said.groups()[1:]), strict=True))
    times = logged_times(folder, name)
    first, last = min(t for t in times if t >= WARM_UP_STEPS), max(times)
    return {
        "steps_per_s": 1000 * (last - first) / (times[last] - times[first]),
        "startup_s": float(said[1]),
        **{f"{name}_start_s": seconds for name, seconds in parts.items()},
    }


def logged_times(folder: Path, name: str) -> dict[int, int]:
    """When each logged step was done, in milliseconds; from the spool or from the store."""
    files = (folder / "spool").glob(f"train_{name}-*/*.jsonl")
    spooled = [json.loads(line[9:]) for file in files for line in file.open()]
    if spooled:
        return {r["step"]: r["time_ms"] for r in spooled if "lr" in r.get("values", {})}
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    [run] = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    history = client.get_metric_history(run.info.run_id, "lr")
    times: dict[int, int] = {}
    for point in sorted(history, key=lambda point: point.timestamp):
        times.setdefault(point.step, point.timestamp)  # the validation logs its step again
    return times


def in_new_process(shards: str, steps: int) -> dict[str, float]:
    """The bare loop, in a process as fresh as a worker's."""
    command = [sys.executable, __file__, "--bare", shards, "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def bare(uri: str, steps: int) -> dict[str, float]:
    """The loop that anybody would write, over one batch."""
    config, shards = ExperimentConfig(), open_shards(uri)
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model = Colorizer(config.model, config.bins)
    objective = Objective(model, config, shards.manifest.ab)
    average = deepcopy(model).requires_grad_(False)
    optimizer = adamw(model, config.optimizer)
    batch = next(train_batches(shards, config.data, config.training.batch_size, seed=0))
    for group in optimizer.param_groups:
        group["lr"] = 1e-4

    def step(whole: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = objective(batch.L, batch.ab)
        loss.backward()
        if whole:
            clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        if whole:
            update_ema(average, model, config.optimizer.ema_decay)

    figures = {}
    for name, whole in (("steps_per_s", True), ("bare_update_steps_per_s", False)):
        for _ in range(WARM_UP_STEPS // 2):
            step(whole)
        began_s = time.perf_counter()
        for _ in range(steps // 2):
            step(whole)
        figures[name] = steps // 2 / (time.perf_counter() - began_s)
    show(str(figures))
    return figures


if __name__ == "__main__":
    main()
