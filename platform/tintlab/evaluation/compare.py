"""Two models on the same photos: which is better, by how much, on how many, and how sure that is.

Everything is paired: photos differ far more from one another than models do on one photo, and only
the differences, photo by photo, say which model is better (Efron and Tibshirani 1993, sec. 8.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from tintlab.errors import ConflictError
from tintlab.evaluation.definitions import Metric, of_photos
from tintlab.evaluation.intervals import Interval, interval, share_interval

BITS = "bits_per_dim"


@dataclass(frozen=True)
class Difference:
    """Two models by one metric."""

    metric: str
    unit: str
    better: str
    """`higher` or `lower`."""
    one: float
    """Mean over the photos that both have a finite figure of."""
    other: float
    gain: Interval
    """How much better the first is, photo by photo; negative where it is worse."""
    wins: int
    """Photos on which the first is better."""
    losses: int
    win_rate: Interval
    """Share of photos on which it is better, a tie being half a win."""
    infinite: int
    """Photos left out of the means and the gain: one of the figures is infinite."""

    @property
    def sure(self) -> bool:
        """Whether one of them is better beyond chance."""
        return self.gain.excludes_zero


@dataclass(frozen=True)
class Comparison:
    """Two models on the same photos."""

    one: str
    other: str
    photos: int
    scenes: int
    differences: list[Difference]
    verdict: str
    """In a sentence."""

    def by(self, metric: str) -> Difference | None:
        """The difference by a metric; None where it was not compared."""
        return next((found for found in self.differences if found.metric == metric), None)


def compare(
    one: pa.Table,
    other: pa.Table,
    names: tuple[str, str] = ("the first", "the second"),
    *,
    same_bins: bool = True,
    seed: int = 0,
) -> Comparison:
    """The first model against the second, of their per-image tables.

    Args: names: how to speak of them. same_bins: whether both price the same tokens; bits per
        dimension of other bins or another chroma grid do not compare, and are left out.
    Raises: ConflictError: the tables are not of the same photos.
    """
    if one["id"].to_pylist() != other["id"].to_pylist():
        raise ConflictError(
            f"{names[0]} and {names[1]} were not measured on the same photos "
            f"({len(one)} and {len(other)}); evaluate both on one split of one data set"
        )
    scenes = one["scene"].to_pylist()
    shared = [name for name in one.column_names if name in other.column_names]
    if not same_bins:
        shared = [name for name in shared if not name.endswith(BITS)]
    found = [_difference(metric, one, other, scenes, seed) for metric in of_photos(shared)]
    differences = [difference for difference in found if difference is not None]
    count = len(set(scenes))
    return Comparison(
        *names,
        photos=len(one),
        scenes=count,
        differences=differences,
        verdict=_verdict(names, differences, len(one), count, same_bins),
    )


def gains(metric: Metric, one: pa.Table, other: pa.Table) -> Float64[np.ndarray, "photos"]:
    """How much better the first is on each photo; `nan` where neither figure is finite."""
    sign = 1.0 if metric.better == "higher" else -1.0
    with np.errstate(invalid="ignore"):
        return sign * (_column(one, metric.id) - _column(other, metric.id))


def _column(table: pa.Table, name: str) -> Float64[np.ndarray, "photos"]:
    return table[name].to_numpy().astype(np.float64)


def _difference(
    metric: Metric, one: pa.Table, other: pa.Table, scenes: Sequence[str], seed: int
) -> Difference | None:
    mine, theirs = _column(one, metric.id), _column(other, metric.id)
    gain = gains(metric, one, other)
    usable = np.flatnonzero(np.isfinite(gain)).tolist()
    if len(usable) == 0:
        return None
    wins, losses = gain > 0, gain < 0  # an infinite figure wins; two of them are a tie
    return Difference(
        metric=metric.id,
        unit=metric.unit,
        better=metric.better,
        one=float(mine[usable].mean()),
        other=float(theirs[usable].mean()),
        gain=interval(gain[usable], [scenes[at] for at in usable], seed),
        wins=int(wins.sum()),
        losses=int(losses.sum()),
        win_rate=share_interval(0.5 + 0.5 * wins - 0.5 * losses, scenes),
        infinite=len(gain) - len(usable),
    )


def _verdict(
    names: tuple[str, str],
    differences: Sequence[Difference],
    photos: int,
    scenes: int,
    same_bins: bool,
) -> str:
    """The sentence: by bits per dimension if they compare, and what speaks against it."""
    where = f"on {photos} photos" + (f" of {scenes} scenes" if scenes < photos else "")
    bits = next((found for found in differences if found.metric == BITS), None)
    sure = [found for found in differences if found.sure]
    if bits is None:
        reason = "" if same_bins else "bits per dimension do not compare (other bins or grid); "
        if not sure:
            return f"{reason}no difference between {' and '.join(names)} is sure {where}"
        better = [found.metric for found in sure if found.gain.mean > 0]
        worse = [found.metric for found in sure if found.gain.mean < 0]
        said = [f"better in {', '.join(better)}"] if better else []
        said += [f"worse in {', '.join(worse)}"] if worse else []
        return f"{reason}{names[0]} is {' and '.join(said)} than {names[1]} {where}"
    if not bits.sure:
        return (
            f"{where}, it is not sure which of {' and '.join(names)} is better: bits per dimension "
            f"differ by {_signed(bits.gain)}"
        )
    first, second = names if bits.gain.mean > 0 else names[::-1]
    won = bits.wins if bits.gain.mean > 0 else bits.losses
    low, high = sorted((abs(bits.gain.low), abs(bits.gain.high)))
    against = [found.metric for found in sure if (found.gain.mean > 0) != (bits.gain.mean > 0)]
    but = f", though worse in {', '.join(against)}" if against else ""
    return (
        f"{first} is better than {second}: {abs(bits.gain.mean):.4f} [{low:.4f}, {high:.4f}] fewer "
        f"bits per dimension, and fewer on {100 * won / photos:.0f} % {where}{but}"
    )


def _signed(gain: Interval) -> str:
    ends = (f"{end:+.4f}" if math.isfinite(end) else "unknown" for end in (gain.low, gain.high))
    return f"{gain.mean:+.4f} [{', '.join(ends)}]"
