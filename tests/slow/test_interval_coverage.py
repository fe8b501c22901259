"""If these fail, a 95 % interval holds the truth less often than it says, and a promotion or a
comparison calls chance a difference, or never calls a difference one."""

from collections.abc import Callable

import numpy as np
import pytest
from figures import Figure

from tintlab.evaluation.intervals import interval

pytestmark = pytest.mark.slow

STUDIES = 1000
"""Coverage of 95 % is then measured with a standard deviation of 0.7 %."""


def of_photos(generator: np.random.Generator, photos: int) -> tuple[np.ndarray, None]:
    """Gains of one model over another in bits per dimension, by photo, of mean 0.

    Few photos gain or lose much: a gamma distribution's skewness of 1.4 around a common part.
    """
    return 0.05 * (generator.gamma(2.0, size=photos) - 2.0), None


def of_long_tails(generator: np.random.Generator, photos: int) -> tuple[np.ndarray, None]:
    """Differences of two skewed figures, such as errors: long tails on both sides."""
    of_one, of_other = generator.lognormal(0.0, 0.8, size=(2, photos))
    return of_one - of_other, None


def of_tiles(generator: np.random.Generator, scenes: int) -> tuple[np.ndarray, list[str]]:
    """Tiles of photographs: 30 % of the variance is the photograph's, and all of it is skewed."""
    sizes = generator.integers(10, 30, size=scenes)
    of_scenes = np.sqrt(0.3 / 2) * (generator.gamma(2.0, size=scenes) - 2.0)
    of_each = np.sqrt(0.7) * (generator.exponential(size=sizes.sum()) - 1.0)
    groups = np.repeat(np.arange(scenes), sizes)
    return of_scenes[groups] + of_each, [str(group) for group in groups]


@pytest.mark.parametrize(
    ("what", "draw", "count"),
    [
        ("30 photos, skewed", of_photos, 30),
        ("30 photos, long tails", of_long_tails, 30),
        ("200 photos, skewed", of_photos, 200),
        ("10 photographs in tiles, skewed", of_tiles, 10),
        ("30 photographs in tiles, skewed", of_tiles, 30),
    ],
)
def test_a_95_percent_interval_holds_the_truth_in_95_percent_of_studies(
    what: str,
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, list[str] | None]],
    count: int,
    figure: Figure,
) -> None:
    generator = np.random.default_rng(20_260)
    held = 0
    for _ in range(STUDIES):
        found = interval(*draw(generator, count))
        held += found.low <= 0.0 <= found.high
    share = held / STUDIES
    figure(
        "Evaluation",
        f"{STUDIES:,} comparisons by chance alone: {what}",
        f"the 95 % interval holds the truth in {100 * share:.1f} %",
        "93 to 97 %",
    )
    assert 0.93 <= share <= 0.97
