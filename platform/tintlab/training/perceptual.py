"""The perceptual distance between two photos: LPIPS, or random features under their own name.

LPIPS compares a trained network's features of both photos. The `lpips` package brings the weights
of each layer's features, and torchvision's classifier is the trunk below them, whose file must be
on this machine: nothing is downloaded, and nothing takes its place. `random_features` is an
untrained trunk of a fixed seed with all features counted alike. It is a distance too, needs no
file, and is not LPIPS: it has a name of its own wherever it is chosen or reported.

Source: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
with version 0.1 of its weights; it compares untrained trunks as well.
"""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tintlab.errors import EnvironmentFault, IntegrityError
from tintlab.settings import LossConfig

LEAST_SIDE_PX = 64
"""Smaller photos are enlarged: the trunks pool by 16 to 32, and see nothing in a few cells."""
SMALLEST = 1e-10
"""Keeps a division by the length of features finite; lpips's own."""
RANDOM_FEATURES = "random_features"
RANDOM_TRUNK = "squeeze"
"""The smallest of the trunks; 0.7 M weights."""
RANDOM_SEED = 2018
"""Of the untrained trunk: another seed would be another distance."""


@dataclass(frozen=True)
class TrunkFile:
    """Weights that torchvision publishes; its file names end with the start of their SHA-256."""

    name: str
    megabytes: float
    """MiB, as torchvision's own table of weights says."""

    @property
    def sha256_start(self) -> str:
        """The first eight digits of the file's SHA-256."""
        return Path(self.name).stem.rsplit("-", 1)[1]


TRUNK_FILES = {
    "alex": TrunkFile("alexnet-owt-7be5be79.pth", 233.1),
    "vgg": TrunkFile("vgg16-397923af.pth", 527.8),
    "squeeze": TrunkFile("squeezenet1_1-b8a52dc0.pth", 4.7),
}
"""torchvision's IMAGENET1K_V1 weights of alexnet, vgg16 and squeezenet1_1: LPIPS is fit on them."""


def metric_name(net: str) -> str:
    """What the distance is called wherever it is reported: `lpips_alex`, or `random_features`."""
    return net if net == RANDOM_FEATURES else f"lpips_{net}"


def trunk_file(net: str, given: str = "") -> Path | None:
    """Where the weights of a trunk are: the file that is given, else torch hub's cached one.

    None for random features, which need no file. Cheap: looks whether it is there, reads nothing.
    Raises: EnvironmentFault: it is not there; says what it is and where to put it.
    """
    if net == RANDOM_FEATURES:
        return None
    wanted = TRUNK_FILES[net]
    path = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / wanted.name
    if not path.is_file():
        raise EnvironmentFault(
            f"loss.perceptual_net={net} needs torchvision's {wanted.name} ({wanted.megabytes} MiB, "
            f"SHA-256 begins {wanted.sha256_start}), and {path} is not there; put it there, give "
            "another place as loss.perceptual_weights, or choose perceptual_net=random_features"
        )
    return path


def require_trunk(config: LossConfig) -> None:
    """Raises: EnvironmentFault: the loss has a perceptual term, and its trunk's file is missing."""
    if config.perceptual > 0:
        trunk_file(config.perceptual_net, config.perceptual_weights)


class PerceptualDistance(nn.Module):
    """How different two photos look: 0 for equal ones. Frozen, and always in evaluation mode."""

    def __init__(self, net: str, weights_file: str = "") -> None:
        """Args: net: alex, vgg, squeeze or random_features; weights_file: see `trunk_file`.

        Raises: EnvironmentFault: the trunk's file is missing. IntegrityError: it is another file.
        """
        super().__init__()
        path = trunk_file(net, weights_file)
        self.name = metric_name(net)
        self.network = _untrained(net) if path is None else _calibrated(net, path)
        self.requires_grad_(False)
        self.eval()

    network: Any

    def forward(
        self, rgb: Float[Tensor, "B 3 H W"], other: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B"]:
        """The distance of each pair of photos, in sRGB in [0, 1]."""
        short = min(rgb.shape[2:])
        if short < LEAST_SIDE_PX:
            size = [side * LEAST_SIDE_PX // short for side in rgb.shape[2:]]
            rgb, other = (
                F.interpolate(photo, size=size, mode="bilinear", align_corners=False)
                for photo in (rgb, other)
            )
        features, others = self._features(rgb), self._features(other)
        distance = rgb.new_zeros(len(rgb))
        for layer, (one, another) in enumerate(zip(features, others, strict=True)):
            difference = (_unit(one) - _unit(another)).square()
            if self.network.lpips:
                weighed = self.network.lins[layer](difference)
            else:
                weighed = difference.sum(dim=1, keepdim=True)
            distance = distance + weighed.mean(dim=(1, 2, 3))
        return distance

    def _features(self, rgb: Tensor) -> tuple[Tensor, ...]:
        """Of each layer of the trunk, (B, channels, h, w)."""
        of_layers: tuple[Tensor, ...] = self.network.net(self.network.scaling_layer(2 * rgb - 1))
        return of_layers

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stays in evaluation mode: LPIPS has dropout, for fitting its weights only."""
        return super().train(False)


def _unit(features: Tensor) -> Tensor:
    """Each position's features at length 1. lpips does the same, with a gradient that is not a
    number where all features of a position are 0."""
    length = features.square().sum(dim=1, keepdim=True).clamp(min=SMALLEST**2).sqrt()
    return features / (length + SMALLEST)


def _calibrated(net: str, path: Path) -> nn.Module:
    network = _built(net, lpips=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = TRUNK_FILES[net]
    if not digest.startswith(wanted.sha256_start):
        raise IntegrityError(
            f"{path} is not torchvision's {wanted.name}: its SHA-256 begins {digest[:8]}, not "
            f"{wanted.sha256_start}; copy or download it again"
        )
    trained = torch.load(path, map_location="cpu", weights_only=True)
    trunk = network.net
    assert isinstance(trunk, nn.Module)
    # lpips cuts torchvision's `features` into slices and keeps each layer's number.
    trunk.load_state_dict(
        {name: trained["features." + name.split(".", 1)[1]] for name in trunk.state_dict()}
    )
    return network


def _untrained(net: str) -> nn.Module:
    assert net == RANDOM_FEATURES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return _built(RANDOM_TRUNK, lpips=False)


def _built(net: str, lpips: bool) -> nn.Module:
    """LPIPS on a trunk with random weights, so that lpips has nothing to download.

    Args: lpips: weigh the features as the package's calibration says, instead of all alike.
    """
    import lpips as package

    arguments: dict[str, Any] = {"net": net, "lpips": lpips, "pnet_rand": True, "verbose": False}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # lpips 0.1.4 calls torchvision with an argument that is deprecated there.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network: nn.Module = package.LPIPS(**arguments)
    return network
