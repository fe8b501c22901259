"""If these fail, a comparison of two models says something that their photos do not."""

import math

import numpy as np
import pyarrow as pa
import pytest

from tintlab.errors import ConflictError
from tintlab.evaluation.compare import compare, gains
from tintlab.evaluation.compare_report import chosen, html, rows_of
from tintlab.evaluation.definitions import METRICS
from tintlab.evaluation.intervals import interval

PHOTOS = 40


def table(**columns: np.ndarray) -> pa.Table:
    """Rows of PHOTOS photos, ten scenes of four."""
    ids = [f"photo{i:02d}" for i in range(PHOTOS)]
    scenes = [f"scene{i // 4}" for i in range(PHOTOS)]
    return pa.table({"id": ids, "scene": scenes, **columns})


def figures(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "bits_per_dim": generator.normal(2.0, 0.5, PHOTOS),
        "psnr_db": generator.normal(22.0, 3.0, PHOTOS),
        "colorfulness": generator.normal(30.0, 9.0, PHOTOS),
    }


def test_gains_are_paired_and_positive_where_the_first_is_better() -> None:
    base = figures(0)
    step = np.linspace(0.05, 0.15, PHOTOS)
    better = base | {"bits_per_dim": base["bits_per_dim"] - step, "psnr_db": base["psnr_db"] + step}
    found = compare(table(**better), table(**base), ("new", "old"))
    assert (found.photos, found.scenes) == (PHOTOS, 10)
    assert [one.metric for one in found.differences] == ["bits_per_dim", "psnr_db"]
    for difference in found.differences:
        # Photos differ by 0.5 and more; paired, a step of 0.1 is sure.
        assert difference.gain.mean == pytest.approx(0.1)
        assert difference.sure
        assert (difference.wins, difference.losses) == (PHOTOS, 0)
        assert difference.win_rate.mean == 1.0
        assert 0.6 < difference.win_rate.low < 0.95  # ten scenes of ten are no certainty
    bits = found.by("bits_per_dim")
    assert bits is not None
    assert bits.other - bits.one == pytest.approx(0.1)
    expected = interval(step, [f"scene{i // 4}" for i in range(PHOTOS)])
    assert (bits.gain.low, bits.gain.high) == pytest.approx((expected.low, expected.high))
    assert found.verdict.startswith("new is better than old: 0.1000 [")
    assert "fewer on 100 % on 40 photos of 10 scenes" in found.verdict


def test_a_comparison_read_the_other_way_round_says_the_opposite() -> None:
    one, other = table(**figures(0)), table(**figures(1))
    there, back = compare(one, other, ("a", "b")), compare(other, one, ("b", "a"))
    for mine, theirs in zip(there.differences, back.differences, strict=True):
        assert mine.gain.mean == pytest.approx(-theirs.gain.mean)
        assert (mine.wins, mine.losses) == (theirs.losses, theirs.wins)
        assert mine.win_rate.mean == pytest.approx(1 - theirs.win_rate.mean)


def test_the_winner_is_named_first_whichever_was_given_first() -> None:
    base = figures(0)
    worse = base | {"bits_per_dim": base["bits_per_dim"] + np.linspace(0.1, 0.2, PHOTOS)}
    verdict = compare(table(**worse), table(**base), ("new", "old")).verdict
    assert verdict.startswith("old is better than new: 0.1500 [")


def test_a_model_against_itself_is_a_tie_and_nothing_is_sure() -> None:
    same = table(**figures(0))
    found = compare(same, same, ("new", "old"))
    for difference in found.differences:
        assert difference.gain.mean == 0.0
        assert not difference.sure
        assert difference.win_rate.mean == 0.5
        assert (difference.wins, difference.losses) == (0, 0)
    assert "it is not sure which of new and old is better" in found.verdict
    assert rows_of(found)[0][-2:] == ["50 % [24, 76], 40 equal", "no"]


def test_differences_by_chance_are_not_sure() -> None:
    found = compare(table(**figures(2)), table(**figures(3)))
    assert not any(difference.sure for difference in found.differences)


def test_a_better_model_that_is_worse_otherwise_is_told_so() -> None:
    base = figures(0)
    step = np.linspace(0.1, 0.2, PHOTOS)
    mixed = base | {"bits_per_dim": base["bits_per_dim"] - step, "psnr_db": base["psnr_db"] - step}
    verdict = compare(table(**mixed), table(**base), ("new", "old")).verdict
    assert verdict.startswith("new is better than old")
    assert verdict.endswith("though worse in psnr_db")


def test_bits_of_other_bins_are_not_compared() -> None:
    base = figures(0)
    other = base | {"bits_per_dim": base["bits_per_dim"] - 1, "psnr_db": base["psnr_db"] + 1.0}
    found = compare(table(**other), table(**base), ("new", "old"), same_bins=False)
    assert found.by("bits_per_dim") is None
    assert found.verdict == (
        "bits per dimension do not compare (other bins or grid); new is better in psnr_db than old "
        "on 40 photos of 10 scenes"
    )


def test_a_photo_that_is_exactly_right_wins_and_is_left_out_of_the_mean() -> None:
    base = figures(0)
    right = base["psnr_db"].copy()
    right[0] = math.inf
    found = compare(table(**(base | {"psnr_db": right})), table(**base)).by("psnr_db")
    assert found is not None
    assert (found.wins, found.losses, found.infinite) == (1, 0, 1)
    assert found.gain.mean == 0.0
    both = compare(table(psnr_db=right), table(psnr_db=right)).by("psnr_db")
    assert both is not None
    assert (both.wins, both.losses, both.infinite) == (0, 0, 1)


def test_other_photos_are_refused() -> None:
    one = table(**figures(0))
    with pytest.raises(ConflictError, match=r"were not measured on the same photos \(40 and 39\)"):
        compare(one, one.slice(1))


def test_the_photos_that_are_shown_are_the_extremes_and_the_middle() -> None:
    gain = np.array([0.0, 5.0, -4.0, 1.0, 3.0, -1.0, 2.0, -2.0, 0.5])
    assert chosen(gain) == {
        "most for the first": [1, 4, 6],
        "in the middle": [0, 8, 3],
        "most against it": [2, 7, 5],
    }
    assert chosen(np.array([1.0]))["most for the first"] == [0]


def test_the_page_has_verdict_figures_and_pictures_and_needs_no_other_file() -> None:
    found = compare(table(**figures(0)), table(**figures(1)), ("a <b>", "old"))
    grey = np.zeros((8, 8, 3), np.uint8)
    page = html(["a <b>", "old"], [found], {"in the middle": [("photo00", [grey] * 4)]})
    assert "a &lt;b&gt;" in page
    assert "a <b>" not in page
    assert "bits_per_dim" in page
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page


def test_gains_of_a_metric_follow_its_better_side() -> None:
    base = figures(0)
    one, other = table(**base), table(**{name: value + 1 for name, value in base.items()})
    np.testing.assert_allclose(gains(METRICS["bits_per_dim"], one, other), 1.0)
    np.testing.assert_allclose(gains(METRICS["psnr_db"], one, other), -1.0)
