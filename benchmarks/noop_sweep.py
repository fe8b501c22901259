"""What the benchmarks of sweeps share: a sweep whose trainings are as short as trainings can be."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pipelines import sweep
from tintlab.config import ExperimentConfig, Workspace
from tintlab.data.shards import open_shards
from tintlab.evaluation.validate import validate
from tintlab.training.loop import Report, train

NOOP = ExperimentConfig().replaced(
    {
        "training.steps": 2,
        "training.eval_every_steps": 2,
        "training.batch_size": 2,
        "data.crop_px": 16,
        "model.depth": 1,
        "evaluation.crop_px": 16,
        "evaluation.panel_images": 1,
    }
)
"""Two steps of the smallest model and one validation: everything else is what is measured."""

SPACE = '''"""Does anything happen in two steps?"""
from optuna.distributions import FloatDistribution
from tintlab.sweep.space import SearchSpace
SPACE = SearchSpace(
    search={{
        "schedule.peak_lr": FloatDistribution(1e-3, 1e-2, log=True),
        "model.dropout": FloatDistribution(0.0, 0.1),
    }},
    num_trials={trials},
    stopping="none",
)
'''


def swept(place: Workspace, shards_uri: str, name: str, trials: int, at_once: int) -> float:
    """Seconds that `tintlab sweep` takes for so many trials, in a Ray that is connected."""
    file = Path(place.root) / "noop.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SPACE.format(trials=trials))
    command = sweep.Command(
        space=str(file),
        trials_at_once=at_once,
        workspace=place.root,
        shards=shards_uri,
        name=name,
        experiment=NOOP,
    )
    began_s = time.perf_counter()
    result = sweep.main(command)
    seconds = time.perf_counter() - began_s
    assert result.exit_code == 0, result.text
    assert len(result.data["trials"]) == trials
    return seconds


def trained(shards_uri: str, folder: Path, report: Callable[[Report], None]) -> None:
    """The training loop of such a trial, alone."""
    train(
        NOOP,
        open_shards(shards_uri),
        folder,
        validate=lambda model, shards: validate(model, shards, NOOP.evaluation),
        report=report,
        resume=None,
    )


def loop_s(shards_uri: str, threads: int, times: int = 5) -> float:
    """Median seconds inside the training loop, in a process that is warm."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    seconds = []
    try:
        for _ in range(times + 1):  # the first one warms up
            with tempfile.TemporaryDirectory() as folder:
                began_s = time.perf_counter()
                trained(shards_uri, Path(folder) / "run", lambda report: None)
                seconds.append(time.perf_counter() - began_s)
    finally:
        torch.set_num_threads(before)
    return statistics.median(seconds[1:])
