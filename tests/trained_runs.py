"""A workspace with a few tiny trained models in it, which can be taken back to its beginning."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from lab_data_set import noise, row_of, write_data_set

from tintlab.config import ExperimentConfig, Workspace
from tintlab.training.request import RunRequest
from tintlab.training.tracked import train_tracked

TINY = {
    "data.crop_px": 16,
    "evaluation.crop_px": 16,
    "evaluation.samples_per_photo": 1,
    "evaluation.panel_images": 1,
    "evaluation.lpips_net": "none",
    "bins.per_channel": 7,
    "model.depth": 1,
    "training.batch_size": 8,
}

TEST_PHOTOS = 32


def write_photos(folder: Path) -> str:
    """Small noisy photos, enough to test with; returns the URI."""
    numbers = {"train": range(24), "val": range(100, 104), "test": range(200, 200 + TEST_PHOTOS)}
    rows = [
        replace(row_of(noise(24, 24, n), split), source=f"photos/{n}.png")
        for split, some in numbers.items()
        for n in some
    ]
    write_data_set(str(folder), [rows])
    return str(folder)


def trained(workspace: Workspace, shards: str, name: str, steps: int, seed: int = 0) -> str:
    """The id of the run that trained a tiny model for so many steps."""
    settings = TINY | {
        "training.steps": steps,
        "training.eval_every_steps": steps,
        "training.seed": seed,
        "schedule.kind": "constant",
        "schedule.warmup_steps": 0,
    }
    config = ExperimentConfig().replaced(settings)
    return train_tracked(
        config, workspace, shards, RunRequest("train", name, f"train/{name}")
    ).run_id


class Beginning:
    """The registry as it is now; models, runs' artefacts and kept evaluations stay."""

    def __init__(self, workspace: Workspace) -> None:
        self._root = Path(workspace.root)
        self._kept = self._root.with_name(f"{self._root.name}-beginning")
        self._kept.mkdir()
        shutil.copy(self._root / "mlflow.db", self._kept / "mlflow.db")
        if (self._root / "registry").exists():
            shutil.copytree(self._root / "registry", self._kept / "registry")

    def restore(self) -> None:
        """Go back there."""
        # By SQLite itself: an engine of this process may have the file open.
        with (
            closing(sqlite3.connect(self._kept / "mlflow.db")) as kept,
            closing(sqlite3.connect(self._root / "mlflow.db")) as now,
        ):
            kept.backup(now)
        shutil.rmtree(self._root / "registry", ignore_errors=True)
        if (self._kept / "registry").exists():
            shutil.copytree(self._kept / "registry", self._root / "registry")
