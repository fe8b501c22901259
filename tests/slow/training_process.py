"""`tintlab train` as a process of its own, its Ray workers, and what it left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from lab_data_set import noise, row_of, write_data_set

ROOT = Path(__file__).parents[2]

SETTINGS = {
    "data": {"crop_px": 16},
    "evaluation": {"crop_px": 16, "panel_images": 1},
    "bins": {"per_channel": 8},
    "model": {"depth": 1, "dropout": 0.1},
    "training": {"batch_size": 12, "eval_every_steps": 20, "steps": 200},
}
"""A training whose steps take about 10 ms."""


def data_set(folder: Path, train: int = 24, val: int = 7) -> str:
    """So many photos of 24 px to train on and to validate with; returns the URI."""
    rows = [row_of(noise(24, 24, seed), "train") for seed in range(train)]
    rows += [row_of(noise(24, 24, 100 + seed), "val") for seed in range(val)]
    write_data_set(str(folder), [rows])
    return str(folder)


def environment(**variables: str) -> dict[str, str]:
    """Of a process that must find tintlab and disturb nobody."""
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def command(workspace: Path, shards: str, *options: str) -> list[str]:
    """The command line of a training in `workspace`; settings are SETTINGS under `options`."""
    workspace.mkdir(exist_ok=True)
    file = workspace / "settings.yaml"
    file.write_text(yaml.safe_dump(SETTINGS))
    given = ["--workspace", str(workspace), "--shards", shards, "--config", str(file), *options]
    return [sys.executable, "-m", "pipelines", "train", *given]


def start(workspace: Path, shards: str, *options: str, **variables: str) -> subprocess.Popen[str]:
    """Begin a training; it leads a process group, as a command in a terminal does."""
    return subprocess.Popen(
        command(workspace, shards, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        cwd=ROOT,
        start_new_session=True,
    )


@dataclass(frozen=True)
class Ended:
    """What a training said and how it ended."""

    code: int
    out: str
    err: str


def ended(process: subprocess.Popen[str], timeout_s: float = 300) -> Ended:
    """Wait for it."""
    out, err = process.communicate(timeout=timeout_s)
    return Ended(process.returncode, out, err)


def ran(workspace: Path, shards: str, *options: str) -> Ended:
    """A training to its end."""
    return ended(start(workspace, shards, *options))


def workers(driver: int) -> list[int]:
    """Process ids of the Ray Train workers that a driver's own Ray has started."""
    return descendants(driver, "RayTrainWorker")


def descendants(driver: int, named: str) -> list[int]:
    """Process ids of what a driver and its Ray have started under such a name."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parents[int(entry.name)] = int(fields[1])

    def of_driver(pid: int) -> bool:
        while pid > 1:
            if pid == driver:
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid, name in names.items() if named in name and of_driver(pid)]


def wait_until(what: Callable[[], bool], timeout_s: float = 120) -> None:
    """Look often, so that a kill can come at any moment after it."""
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.02)


def kill_group(process: subprocess.Popen[str]) -> None:
    """The driver and its Ray, at once, as when a machine is switched off."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def checkpoint(workspace: Path) -> Path:
    """The newest one."""
    return max((workspace / "checkpoints" / "train_train").glob("step-*"))


def learned(workspace: Path) -> dict[str, str]:
    """Hashes of the weights, their average and the optimizer at the end."""
    files = json.loads((checkpoint(workspace) / "manifest.json").read_text())["files"]
    return {name: record["sha256"] for name, record in files.items() if "safetensors" in name}
