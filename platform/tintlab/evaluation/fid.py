"""FID by torch-fidelity, where that package and its weights are on this machine.

Nothing is downloaded and nothing takes its place: no other network's distance is called FID. FIDs
compare at the same network, reference, number and size of photos only; of few photos it is too
high, and here the reference is the same photos' truth, as in CT2's and DDColor's tables.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""Of torch-fidelity's `inception-v3-compat`, by the name it has in the torch hub cache."""
FEWEST = 2
"""A covariance of one photo is none."""

Picture = Callable[[int], UInt8[np.ndarray, "_ _ 3"]]


def fid_weights() -> Path | None:
    """The file of the weights; None where it or the package is not on this machine."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    return cached if find_spec("torch_fidelity") and cached.is_file() else None


def fid(painted: Picture, truth: Picture, count: int) -> float | None:
    """Frechet distance between features of painted photos and of the true ones.

    Args: painted, truth: the photo of a number below `count`; asked for one by one.
    Returns: None where it cannot be measured, see `fid_weights`, or of a single photo.
    Source: Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, eq. 6.
    """
    weights = fid_weights()
    if weights is None or count < FEWEST:
        return None
    from torch_fidelity import calculate_metrics

    found: dict[str, float] = calculate_metrics(
        input1=Photos(painted, count),
        input2=Photos(truth, count),
        fid=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        verbose=False,
    )
    return float(found["frechet_inception_distance"])


class Photos(Dataset[Tensor]):
    """Photos as torch-fidelity takes them: uint8 tensors of (3, H, W)."""

    def __init__(self, picture: Picture, count: int) -> None:
        self._picture, self._count = picture, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> UInt8[Tensor, "3 _ _"]:
        if not 0 <= number < self._count:
            raise IndexError(f"there are {self._count} photos, got number {number}")
        return torch.from_numpy(self._picture(number)).permute(2, 0, 1).contiguous()
