"""If these fail, a difference that is chance is called sure, or a sure one is called chance."""

import math

import numpy as np
import pytest
from scipy import stats

from tintlab.evaluation import intervals
from tintlab.evaluation.intervals import Interval, interval, ratio_interval, share_interval


def test_an_interval_of_many_normal_values_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, size=2000)
    found = interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(2000)
    assert found.mean == values.mean()
    assert found.low == pytest.approx(found.mean - half, abs=0.08 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.08 * half)


def test_skewed_values_have_the_longer_side_where_the_rare_large_ones_are() -> None:
    values = np.random.default_rng(3).exponential(size=30)
    found = interval(values)
    assert found.high - found.mean > 1.1 * (found.mean - found.low)
    mirrored = interval(-values)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_values_of_one_group_count_as_little_as_they_know() -> None:
    """Ten tiles that say the same as one: an interval over tiles must not shrink for them."""
    of_photographs = np.random.default_rng(0).normal(size=12)
    tiles = np.repeat(of_photographs, 10)
    groups = [f"photo {i:02d}" for i in range(12) for _ in range(10)]
    alone, grouped, naive = interval(of_photographs), interval(tiles, groups), interval(tiles)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    assert naive.high - naive.low < 0.4 * (grouped.high - grouped.low)


def test_a_group_of_each_value_is_no_group() -> None:
    values = np.random.default_rng(0).normal(size=30)
    names = [f"{i:02d}" for i in range(30)]
    assert interval(values, names) == interval(values)


def test_scale_and_shift_of_the_values_are_those_of_the_interval() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=40)
    one, other = interval(values), interval(1e-6 * values + 5e-6)
    assert (other.low, other.high) == pytest.approx(
        (1e-6 * one.low + 5e-6, 1e-6 * one.high + 5e-6), rel=1e-9
    )


def test_an_interval_repeats_itself_and_moves_little_with_the_seed() -> None:
    values = np.random.default_rng(2).normal(size=50)
    one, other = interval(values, seed=1), interval(values, seed=2)
    assert one == interval(values, seed=1)
    assert one != other
    assert one.low == pytest.approx(other.low, abs=0.05 * (one.high - one.low))


def test_an_interval_does_not_depend_on_how_much_is_drawn_at_a_time(monkeypatch) -> None:
    values = np.random.default_rng(2).normal(size=50)
    whole = interval(values)
    monkeypatch.setattr(intervals, "_BLOCK_DRAWS", 777)
    assert interval(values) == whole


def test_too_few_values_say_nothing() -> None:
    unknown = interval(np.array([1.0, 1.1, 1.2]))
    assert (unknown.low, unknown.high) == (-math.inf, math.inf)
    assert not unknown.excludes_zero
    many_of_few = interval(np.arange(1.0, 31.0), ["a", "b", "c"] * 10)
    assert not many_of_few.excludes_zero
    assert math.isfinite(interval(np.array([1.0, 1.1, 1.2, 0.9])).low)


def test_equal_values_have_no_spread_and_a_rare_difference_has_an_unknown_end() -> None:
    assert interval(np.full(30, 0.25)) == Interval(0.25, 0.25, 0.25)
    # 2 of 30 differ: every eighth resample has none of them, and nothing bounds the mean above.
    rare = interval(np.array([0.0] * 28 + [1.0, 1.0]))
    assert rare.low < 0 < rare.mean < rare.high == math.inf


@pytest.mark.parametrize(
    ("low", "high", "sure"), [(0.1, 0.2, True), (-2.0, -1.0, True), (-1.0, 1.0, False)]
)
def test_a_sign_is_sure_when_both_ends_have_it(low: float, high: float, sure: bool) -> None:
    assert Interval((low + high) / 2, low, high).excludes_zero is sure


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 0.0]])
def test_values_that_have_no_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="needs finite values"):
        interval(np.array(values, np.float64))


def test_a_group_for_each_value() -> None:
    with pytest.raises(ValueError, match="got 2 for 3 values"):
        interval(np.zeros(3), ["a", "b"])


def test_few_skewed_scenes_are_covered_where_percentiles_are_too_narrow() -> None:
    """400 small studies; the slow test has 1,000 of each kind. Student's t has 89 % here."""
    generator = np.random.default_rng(0)
    held = of_student = 0
    for _ in range(400):
        values = generator.exponential(size=15) - 1.0
        found = interval(values)
        held += found.low <= 0.0 <= found.high
        half = stats.t.ppf(0.975, 14) * values.std(ddof=1) / math.sqrt(15)
        of_student += abs(values.mean()) <= half
    assert 0.93 <= held / 400 <= 0.975
    assert of_student / 400 < 0.92


def test_a_ratio_of_means_has_the_interval_of_its_linearised_difference() -> None:
    generator = np.random.default_rng(0)
    of = generator.gamma(4.0, size=400)
    values = 0.8 * of + generator.normal(0.0, 0.5, size=400)
    found = ratio_interval(values, of)
    assert found.mean == pytest.approx(values.sum() / of.sum())
    half = 1.96 * (values - found.mean * of).std(ddof=1) / of.mean() / 20
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)
    with pytest.raises(ValueError, match="a sum above 0"):
        ratio_interval(values, np.zeros(400))


def test_a_share_by_hand() -> None:
    # Wilson, 8 of 10: (0.8 + 0.19207) / 1.38415 -+ 1.95996 sqrt(0.016 + 0.0096036) / 1.38415.
    found = share_interval(np.array([1.0] * 8 + [0.0] * 2))
    assert (found.low, found.high) == pytest.approx((0.49016, 0.94331), abs=1e-4)
    all_won = share_interval(np.ones(10))
    assert (all_won.low, all_won.high) == pytest.approx((10 / (10 + 1.959964**2), 1.0))


def test_wins_on_tiles_of_one_scene_count_once() -> None:
    alone = share_interval(np.ones(5))
    tiles = share_interval(np.ones(50), [f"scene {i // 10}" for i in range(50)])
    assert tiles == alone
    with pytest.raises(ValueError, match=r"shares must be in \[0, 1\]"):
        share_interval(np.array([1.2]))
