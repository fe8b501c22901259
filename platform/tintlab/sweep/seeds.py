"""How sure a mean over seeds is: Student's t for one configuration, Welch's t for two.

Two or three seeds leave one to four degrees of freedom, so the intervals are wide. They are shown
as they are: configurations of a sweep differ in their spread (a high learning rate is noisier), so
a variance common to all of them, which would make the intervals narrower, is not assumed.

Sources: Student 1908, The probable error of a mean; Welch 1947, The generalization of "Student's"
problem when several different population variances are involved (with Satterthwaite's degrees of
freedom); Dunn 1961, Multiple comparisons among means (Bonferroni).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

from tintlab.evaluation.intervals import LEVEL, Interval


@dataclass(frozen=True)
class Difference:
    """Of the means of two configurations, the second taken from the first."""

    interval: Interval
    p: float
    """How often seeds alone would show a difference at least as large, if there were none."""

    def holds_among(self, compared: int) -> bool:
        """Whether the difference is sure even for the most striking of so many comparisons."""
        return self.p * compared < 1 - LEVEL


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean over seeds with its 95 % interval; None with fewer than two."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = _t(float(len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """The difference of two means over seeds; None if either has fewer than two."""
    if len(first) < 2 or len(second) < 2:
        return None
    mean = statistics.fmean(first) - statistics.fmean(second)
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    if error <= abs(mean) * 1e-12:  # no seed made any difference, in either
        return Difference(Interval(mean, mean, mean), 0.0 if mean else 1.0)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    half = _t(freedom) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Difference(Interval(mean, mean - half, mean + half), p)


def _t(freedom: float) -> float:
    """The quantile of Student's t beyond which both tails together have 1 - LEVEL."""
    return float(stdtrit(freedom, (1 + LEVEL) / 2))
