"""How ab colours become discrete tokens and back: factored bins (a, then b given a) or joint bins.

A colour has C tokens of K bins each. A bin stands for its centre, which has E of the two ab
coordinates, C * E = 2: factored bins have C = 2 and E = 1, joint bins have C = 1 and E = 2.
Axes: B batch, C tokens per position, K bins, h w chroma grid.

Source: Zhang et al. 2016, Colorful Image Colorization, sec. 2.1 to 2.3 (joint bins, annealed mean).
"""

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from tintlab.color.lab import srgb_to_lab
from tintlab.settings import BinsConfig

# Bins cover [-110, 110] in a and b: all of sRGB, whose largest coordinate is b = -107.9 (blue).
AB_LIMIT = 110.0

# What float32 may add to a value at the limit; it falls into the outermost bin.
OVERSHOOT = 1e-3

# Distances from colours to all bins that may be in memory at once: 2^24 float32 are 64 MiB.
MAX_DISTANCES = 2**24


class Bins(ABC):
    """A quantiser of ab, whole in its centres; every method works on the device of its argument."""

    centers: Float32[Tensor, "K E"]
    """Centre of each bin in ab units, in ascending order (joint: by a, then by b)."""

    def __init__(self, centers: Float32[Tensor, "K E"]) -> None:
        self.centers = centers

    @property
    def channels(self) -> int:
        """Tokens per position, C: 2 for factored bins (a first, then b), 1 for joint bins."""
        return 2 // self.centers.shape[1]

    @property
    def count(self) -> int:
        """Bins per token, K."""
        return self.centers.shape[0]

    @torch.no_grad()
    def quantize(self, ab: Float[Tensor, "B 2 h w"]) -> Int64[Tensor, "B {self.channels} h w"]:
        """The nearest bin of every colour.

        Args: ab: CIE a and b under D65, each in [-110, 110]; rounding errors beyond are tolerated.
        Raises: ValueError: a value is outside that range or is not a number.
        """
        ab = ab.to(torch.promote_types(ab.dtype, torch.float32))
        if ab.numel() and not bool((ab.abs() <= AB_LIMIT + OVERSHOOT).all()):  # false for NaN, too
            raise ValueError(
                f"ab must be in [-{AB_LIMIT:g}, {AB_LIMIT:g}], got values in "
                f"[{ab.min().item():g}, {ab.max().item():g}]; clamp model output before quantizing"
            )
        return self._nearest(ab)

    @abstractmethod
    def _nearest(self, ab: Tensor) -> Tensor:
        """The tokens (B, C, h, w) of colours that are in range and at least float32."""

    def decode(self, tokens: Int64[Tensor, "B {self.channels} h w"]) -> Float32[Tensor, "B 2 h w"]:
        """The centre of every token's bin, in ab units.

        Raises: ValueError: a token is not in [0, K).
        """
        self._require_bins(tokens)
        ab = self.centers.to(tokens.device)[tokens]  # (B, C, h, w, E)
        return ab.movedim(-1, 2).flatten(1, 2)  # (B, C * E, h, w)

    def soft_decode(
        self,
        logits: Float[Tensor, "B {self.channels} {self.count} h w"],
        temperature: float = 0.38,
    ) -> Float[Tensor, "B 2 h w"]:
        """The annealed mean: the mean centre under softmax(logits / temperature); differentiable.

        Towards temperature 0 it is the most likely bin, at 1 the plain mean. Half precision is
        computed in float32. Factored: `logits[:, 0]` are a's and `logits[:, 1]` are b's given the a
        that the decoder was fed, so b's mean is conditional on that a, not on the mean a.
        Args: temperature: above 0; 0.38 is what Zhang et al. 2016 chose (sec. 2.3).
        Raises: ValueError: temperature is not above 0.
        """
        if not temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {temperature:g}; take the argmax for the limit"
            )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probability = torch.softmax(logits / temperature, dim=2)
        # A sum and not matmul, which autocast and TF32 round: bfloat16 has steps of 0.5 at 100.
        coordinates = self.centers.to(probability).unbind(1)
        means = [(probability * center[:, None, None]).sum(dim=2) for center in coordinates]
        return torch.stack(means, dim=2).flatten(1, 2)  # (B, C, E, h, w) -> (B, C * E, h, w)

    def neighbour_targets(self, sigma_ab: float) -> Float32[Tensor, "K K"]:
        """Row k: what to learn instead of "bin k, certainly": a Gaussian around its centre.

        Args: sigma_ab: its width in ab units, above 0; 5 is that of Zhang et al. 2016, sec. 2.1,
            who keep the 5 nearest bins where all are kept here.
        """
        nearness = -torch.cdist(self.centers, self.centers).square() / (2 * sigma_ab**2)
        return nearness.softmax(dim=1)

    @property
    def color_count(self) -> int:
        """How many colours the tokens of one position can say, Q = K^C."""
        return int(self.count**self.channels)

    def colors(self, tokens: Int64[Tensor, "B {self.channels} h w"]) -> Int64[Tensor, "B h w"]:
        """The number, in [0, Q), of the colour that the tokens of each position say together."""
        number = tokens[:, 0]
        for channel in range(1, self.channels):
            number = number * self.count + tokens[:, channel]
        return number

    def color_centers(self) -> Float32[Tensor, "Q 2"]:
        """The ab of every colour, in the order of `colors`."""
        axes = torch.meshgrid(*[torch.arange(self.count)] * self.channels, indexing="ij")
        tokens = torch.stack([axis.flatten() for axis in axes])[None, :, :, None]  # (1, C, Q, 1)
        return self.decode(tokens)[0, :, :, 0].T.contiguous()

    def displayable(self) -> Bool[Tensor, "Q"]:
        """Which colours some 8-bit sRGB colour falls into."""
        faces = torch.from_numpy(_gamut_faces().copy()).T[None, :, :, None]  # (1, 2, N, 1)
        shown = torch.zeros(self.color_count, dtype=torch.bool)
        shown[self.colors(self.quantize(faces)).flatten()] = True
        return shown

    def _require_bins(self, tokens: Tensor) -> None:
        """Raises: ValueError: a token is not in [0, K); a negative one would index from the end."""
        if tokens.numel() and not bool(((tokens >= 0) & (tokens < self.count)).all()):
            raise ValueError(
                f"tokens must be in [0, {self.count}), got values in [{tokens.min().item()}, "
                f"{tokens.max().item()}]; use the bins that made these tokens"
            )


class FactoredBins(Bins):
    """One token for a, then one for b: uniform bins over [-110, 110] for each."""

    def __init__(self, per_channel: int) -> None:
        self.step = 2 * AB_LIMIT / per_channel
        """Width of a bin in ab units; the error is at most half of it."""
        centers = (torch.arange(per_channel, dtype=torch.float64) + 0.5) * self.step - AB_LIMIT
        super().__init__(centers.to(torch.float32)[:, None])

    def _nearest(self, ab: Tensor) -> Tensor:
        cell = ((ab + AB_LIMIT) / self.step).floor().to(torch.int64)
        return cell.clamp(0, self.count - 1)


class JointBins(Bins):
    """One token for an ab pair: the points of a square grid whose cell holds some sRGB colour.

    The points are multiples of `step`, so grey is the centre of a bin. At step 10 there are 261.
    Zhang et al. 2016 report 313 for this step; the paper does not give the rule behind that list,
    and 261 is every cell of the grid that any 8-bit sRGB colour falls into.
    """

    def __init__(self, step: float) -> None:
        self.step = step
        """Side of a cell in ab units; in gamut the error is at most half of it in a and in b.

        The outermost cells reach to 110, which is farther when the step does not divide 110.
        """
        cells = _cells_in_gamut(step)  # (K, 2)
        super().__init__(torch.tensor(cells * step, dtype=torch.float32))
        self._reach = int(AB_LIMIT // step)
        side = 2 * self._reach + 1
        self._token_of_cell = torch.full((side, side), -1)
        self._token_of_cell[tuple((cells + self._reach).T)] = torch.arange(self.count)

    def _nearest(self, ab: Tensor) -> Tensor:
        cell = (ab / self.step).round().clamp(-self._reach, self._reach).to(torch.int64)
        a, b = (cell + self._reach).unbind(1)
        tokens = self._token_of_cell.to(ab.device)[a, b]  # (B, h, w)
        missing = tokens < 0
        if bool(missing.any()):
            outside = ab.movedim(1, -1)[missing]  # (N, 2)
            centers = self.centers.to(outside)
            rows = max(1, MAX_DISTANCES // self.count)
            nearest = [_nearest_row(part, centers) for part in outside.split(rows)]
            tokens[missing] = torch.cat(nearest)
        return tokens[:, None]


def _nearest_row(points: Tensor, centers: Tensor) -> Tensor:
    """Index of the centre nearest to each point (N, 2); exact, as matmul's rounding moves ties."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, centers, compute_mode=exact).argmin(dim=1)


def _gamut_faces() -> np.ndarray:
    """The ab (N, 2) of all 393,216 colours on the six faces of the RGB cube.

    They reach everything in the ab plane that its inside reaches: a line of constant ab enters and
    leaves the solid through them. So they stand for all 16.7 million.
    """
    levels = np.arange(256, dtype=np.uint8)
    plane = np.stack(np.meshgrid(levels, levels, indexing="ij"), axis=-1)
    faces = [np.insert(plane, axis, level, axis=-1) for axis in range(3) for level in (0, 255)]
    return srgb_to_lab(np.stack(faces))[..., 1:].reshape(-1, 2)


@lru_cache(maxsize=16)
def _cells_in_gamut(step: float) -> np.ndarray:
    """Grid cells (K, 2) holding an sRGB colour, as multiples of `step`, sorted by a, then b."""
    reach = AB_LIMIT // step
    cells = np.rint(_gamut_faces() / np.float32(step)).clip(-reach, reach).astype(np.int64)
    flat = np.unique(cells[:, 0] * 1000 + cells[:, 1])  # |cell| <= 55: one number sorts as the pair
    a = (flat + 500) // 1000
    cells = np.stack([a, flat - 1000 * a], axis=-1)
    cells.flags.writeable = False  # the cache hands out this very array
    return cells


def make_bins(config: BinsConfig) -> Bins:
    """The bins a config asks for."""
    if config.kind == "factored":
        return FactoredBins(config.per_channel)
    return JointBins(config.joint_step)
