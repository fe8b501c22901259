"""Records of sweeps that never ran, with figures that follow from the values."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tintlab.config import ExperimentConfig
from tintlab.sweep.records import Mode, RunRecord, State, SweepRecord, TrialRecord

METRIC = "val/bits_per_dim"


def run(
    score: float | None,
    replicate: int = 0,
    state: State = "complete",
    run_id: str | None = None,
    **others: Any,
) -> RunRecord:
    """A run with this score at its end."""
    step = {"complete": 100, "stopped": 40, "running": 20, "failed": 20}[state]
    metrics = {METRIC: score} if score is not None else {}
    curve = {at: score + 1 - at / 100 for at in range(20, step + 1, 20)} if score else {}
    known: dict[str, Any] = {
        "seed": replicate,
        "identity": f"s/{replicate}",
        "attempts": 1,
        "step": step,
        "metrics": metrics | others.pop("metrics", {}),
        "curve": curve,
        "seconds": 10.0,
    }
    return RunRecord(replicate=replicate, state=state, run_id=run_id, **(known | others))


def trial(
    number: int,
    values: dict[str, Any],
    scores: Sequence[float],
    state: State = "complete",
    **others: Any,
) -> TrialRecord:
    """A configuration with a run for each score."""
    runs = tuple(
        run(score, at, state, run_id=f"{number:016x}{at:016x}", **others)
        for at, score in enumerate(scores)
    )
    return TrialRecord(number, values, state, runs, METRIC)


def sweep(*trials: TrialRecord, **changed: Any) -> SweepRecord:
    """A sweep of these."""
    mode: Mode = changed.pop("mode", "min")
    known: dict[str, Any] = {
        "name": "cycles",
        "question": "Does a cycle help?",
        "space": "lr_cycles",
        "metric": METRIC,
        "objectives": {METRIC: mode},
        "reference": {},
        "searched": tuple(dict.fromkeys(key for one in trials for key in one.values)),
        "num_trials": len(trials),
        "replicates": max((len(one.runs) for one in trials), default=1) or 1,
        "seed": 0,
        "base": ExperimentConfig().flat(),
        "shards_uri": "/data/shards",
        "data_fingerprint": "f" * 16,
        "code": {"git": "abc123", "hash": "def456"},
        "overrides": (),
        "wall_s": 100.0,
        "ended": "all trials are done",
    }
    return SweepRecord(mode=mode, trials=tuple(trials), **(known | changed))


def large_sweep(configurations: int, seeds: int = 2, **changed: Any) -> SweepRecord:
    """Peak learning rate decides, depth a little, dropout nothing; high rates of one kind fail."""
    draw = np.random.default_rng(0)
    trials = []
    for number in range(configurations):
        kind = ("cosine", "triangular", "exp_range")[int(draw.integers(3))]
        peak_lr = math.exp(draw.uniform(math.log(1e-4), math.log(1e-1)))
        values: dict[str, Any] = {
            "schedule.kind": kind,
            "schedule.peak_lr": peak_lr,
            "model.depth": int(draw.integers(1, 9)),
            "model.dropout": float(draw.uniform(0, 0.3)),
        }
        if kind != "cosine":
            values["schedule.cycle_steps"] = int(draw.choice([50, 100, 200]))
        score = 0.7 + 0.1 * math.log(peak_lr / 3e-3) ** 2 - 0.01 * values["model.depth"]
        fails = kind == "exp_range" and peak_lr > 2e-2
        state: State = "failed" if fails else "stopped" if score > 1.2 else "complete"
        metrics = {"val/psnr_db": 30 - 8 * score, "val/colorfulness_ratio": float(draw.uniform())}
        others: dict[str, Any] = {"metrics": metrics}
        if fails:
            others |= {"failure": "non_finite", "reason": "the loss is nan at step 20"}
        scores = [score + float(draw.normal(0, 0.01)) for _ in range(seeds)]
        trials.append(trial(number, values, scores, state, **others))
    return sweep(*trials, **changed)
