"""doctor: what this machine has, to read and to paste into a report."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version

from tintlab.command import StageCommand
from tintlab.console import Result, table

PACKAGES = ("tintlab", "ray", "torch", "torchvision", "optuna", "mlflow", "pyarrow", "numpy")


@dataclass(frozen=True)
class Command(StageCommand):
    """Print versions, devices and paths; nothing is changed."""


def main(command: Command) -> Result:
    """Look, and say what was seen."""
    import torch

    place = command.place
    near = place.root if place.is_local else os.getcwd()
    while not os.path.exists(near):
        near = os.path.dirname(near)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    packages = {name: version(name) for name in PACKAGES}
    data = {
        "python": platform.python_version(),
        "packages": packages,
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "ray_address": os.environ.get("RAY_ADDRESS", "a local Ray is started when needed"),
        "ray_auth_mode": os.environ.get("RAY_AUTH_MODE", "token"),
        "workspace": place.root,
        "tracking": place.tracking_uri.split("@")[-1],  # never a password
        "free_disk_gb": round(shutil.disk_usage(near).free / 1e9, 1),
    }
    rows = [[key, value] for key, value in data.items() if key != "packages"]
    rows += [[name, number] for name, number in packages.items()]
    return Result(data, table(["what", "here"], rows))


if __name__ == "__main__":
    from pipelines.__main__ import main as tintlab

    sys.exit(tintlab(["doctor", *sys.argv[1:]]))
