"""A sweep's answer: what it says, and that it never says more than is known."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_sweeps import METRIC, large_sweep, run, sweep, trial
from scipy import stats

from tintlab.sweep.answer import answer, comparison, completed, pareto_front, score_interval
from tintlab.sweep.failures import failures
from tintlab.sweep.importance import importances
from tintlab.sweep.records import TrialRecord
from tintlab.sweep.seeds import difference, mean_interval

COSINE, CYCLE, TWO = ({"schedule.kind": kind} for kind in ("cosine", "triangular", "triangular2"))
REFERENCE = {"schedule.kind": "cosine"}

SCORES = st.lists(st.floats(0.1, 10), min_size=2, max_size=6)


@given(SCORES, SCORES)
def test_the_difference_is_welch_s(first: list[float], second: list[float]) -> None:
    found = difference(first, second)
    assert found is not None
    with warnings.catch_warnings():  # of equal values, where scipy has no interval
        warnings.simplefilter("ignore")
        scipys = stats.ttest_ind(first, second, equal_var=False)
        low, high = scipys.confidence_interval()
    if not math.isfinite(scipys.pvalue) or scipys.pvalue < 1e-9 or high - low < 1e-6:
        return
    assert found.p == pytest.approx(scipys.pvalue, rel=1e-6)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=1e-9)


def test_a_reference_that_wins_is_the_best_of_its_own_side() -> None:
    """The more of it there were, the likelier that one of them came out best by chance."""
    of_reference = [
        trial(n, {**COSINE, "n": n}, [0.80 + n / 100, 0.81 + n / 100]) for n in range(8)
    ]
    record = sweep(*of_reference, trial(8, CYCLE, [0.95, 0.96]), reference=REFERENCE)
    found = comparison(record, completed(record))
    assert found.reference_wins
    assert (found.tried, found.others) == (8, 1)
    assert "the only other one" in answer(record)


def test_an_interval_over_seeds_holds_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        interval = mean_interval(draw.normal(5.0, 2.0, 3).tolist())
        assert interval is not None
        held += interval.low <= 5.0 <= interval.high
    assert 0.935 < held / 2000 < 0.965
    assert mean_interval([1.0]) is None
    assert difference([1.0], [1.0, 2.0]) is None


def test_a_clear_winner_is_told_with_its_interval() -> None:
    text = answer(
        sweep(
            trial(0, COSINE, [0.80, 0.81, 0.80]),
            trial(1, CYCLE, [0.70, 0.71, 0.70]),
            trial(2, TWO, [0.79, 0.80, 0.79]),
            reference=REFERENCE,
        )
    )
    assert text == (
        "The best is schedule.kind=triangular (trial 1): its val/bits_per_dim, 0.7033, is 0.1000 "
        "lower than that of the best with schedule.kind=cosine (trial 0); the difference has a "
        "95 % interval of -0.1131 to -0.0869 over 3 seeds each (Welch), more than seeds explain "
        "even for the best of 2 (Bonferroni)."
    )


def test_a_lead_within_the_noise_is_told_as_such() -> None:
    record = sweep(trial(0, COSINE, [0.80, 0.70]), trial(1, CYCLE, [0.69, 0.75]))
    text = answer(record)
    assert "is 0.0300 lower than that of the second best (trial 0: schedule.kind=cosine)" in text
    assert "which includes 0: the two cannot be told apart." in text


def test_a_lead_that_many_tries_explain_is_not_sure() -> None:
    others = [trial(number, {"model.depth": number}, [0.9, 0.91, 0.9]) for number in range(2, 40)]
    record = sweep(
        trial(0, {"model.depth": 50}, [0.80, 0.81, 0.82]),
        trial(1, {"model.depth": 51}, [0.77, 0.78, 0.775]),
        *others,
        reference={"model.depth": 50},
    )
    text = answer(record)
    assert "which excludes 0, but would not if all 39 that were tried counted" in text
    few = answer(sweep(*record.trials[:2], reference={"model.depth": 50}))
    assert few.endswith("(Welch), more than seeds explain.")


def test_one_seed_may_be_chance() -> None:
    text = answer(sweep(trial(0, COSINE, [0.8]), trial(1, CYCLE, [0.7])))
    assert text.endswith("each has one seed only, so this may be chance.")
    uneven = answer(sweep(trial(0, COSINE, [0.8, 0.81]), trial(1, CYCLE, [0.7])))
    assert uneven.endswith("trial 1 has one seed only, so this may be chance.")


def test_a_reference_that_stays_ahead_is_the_answer() -> None:
    text = answer(
        sweep(
            trial(0, COSINE | {"model.depth": 2}, [0.70, 0.71]),
            trial(1, CYCLE, [0.80, 0.81]),
            trial(2, TWO, [0.82, 0.83]),
            reference=REFERENCE,
        )
    )
    assert text.startswith(
        "Nothing beats schedule.kind=cosine: its best (trial 0: model.depth=2) has "
        "val/bits_per_dim 0.7050, and the best of 2 others (trial 1: schedule.kind=triangular) is "
        "0.1000 higher; "
    )


def test_more_is_better_where_the_mode_says_so() -> None:
    text = answer(sweep(trial(0, COSINE, [20.0]), trial(1, CYCLE, [21.0]), mode="max"))
    assert "(trial 1): its val/bits_per_dim, 21.0000, is 1.0000 higher than" in text


def test_a_reference_without_a_complete_trial_is_named() -> None:
    trials = (trial(1, CYCLE, [0.7]), trial(2, TWO, [0.8]))
    stopped = trial(0, COSINE, [0.9], state="stopped")
    text = answer(sweep(stopped, *trials, reference=REFERENCE))
    assert text.endswith("; none got to the end with schedule.kind=cosine.")
    only = answer(sweep(*(trial(n, COSINE, [0.7 + n]) for n in (0, 1)), reference=REFERENCE))
    assert only.endswith("; all have schedule.kind=cosine.")


def test_one_trial_and_none_are_no_comparison() -> None:
    one = answer(sweep(trial(0, COSINE, [0.8, 0.9])))
    assert one == (
        "Only one configuration was trained to the end, schedule.kind=cosine (trial 0): its "
        "val/bits_per_dim is 0.8500 (95 % interval 0.2147 to 1.4853 over 2 seeds), and there is "
        "nothing to compare it with."
    )
    assert answer(sweep()) == (
        "No configuration was trained to the end (none was begun), so there is no answer."
    )
    going = sweep(
        trial(0, COSINE, [0.8], state="running"), trial(1, CYCLE, [], state="failed"), ended=None
    )
    assert answer(going) == (
        "No configuration was trained to the end (1 unfinished, 1 failed), so there is no answer "
        "yet."
    )


def test_a_sweep_that_goes_on_says_so_far() -> None:
    trials = (trial(0, COSINE, [0.8]), trial(1, CYCLE, [0.7]))
    assert answer(sweep(*trials, ended=None)).startswith("So far the best is ")
    back = answer(sweep(*trials, ended=None, reference=CYCLE))
    assert back.startswith("So far nothing beats schedule.kind=triangular: ")


def test_a_score_that_is_no_number_wins_nothing() -> None:
    record = sweep(trial(0, COSINE, [math.nan]), trial(1, CYCLE, [0.7]), trial(2, TWO, [0.8]))
    assert [one.number for one in completed(record)] == [1, 2]
    assert "nan" not in answer(record)


def objectives(number: int, bits: float, colour: float) -> TrialRecord:
    return trial(number, {"model.depth": number}, [bits], metrics={"val/colour": colour})


def test_the_pareto_front_is_what_nothing_dominates() -> None:
    record = sweep(
        objectives(0, 0.70, 0.5),
        objectives(1, 0.75, 0.9),
        objectives(2, 0.76, 0.8),  # worse than 1 in both
        objectives(3, 0.80, 0.9),  # as good as 1 in one, worse in the other
        objectives(4, 0.75, 0.9),  # equal to 1
        trial(5, {"model.depth": 5}, [0.6], state="stopped"),
        objectives={METRIC: "min", "val/colour": "max"},
    )
    assert [one.number for one in pareto_front(record)] == [0, 1, 4]
    assert answer(record).endswith(
        "; of 5 complete configurations 3 are Pareto-optimal in val/bits_per_dim (min) and "
        "val/colour (max): trials 0, 1 and 4."
    )


def test_the_other_is_the_best_of_the_reference() -> None:
    record = large_sweep(60, reference=REFERENCE)
    found = comparison(record, completed(record))
    assert found.against_reference
    cosines = [one for one in completed(record) if one.values["schedule.kind"] == "cosine"]
    assert cosines[0] in (found.winner, found.other)
    interval = score_interval(found.winner)
    assert interval is not None
    assert interval.mean == pytest.approx(found.winner.score)


def test_the_key_that_decides_is_the_most_important() -> None:
    found = importances(large_sweep(120))
    assert found[0].key == "schedule.peak_lr"
    assert found[0].share > 0.5
    assert sum(one.share for one in found) == pytest.approx(1.0)
    assert all(one.low <= one.share <= one.high for one in found)
    share = {one.key: one.share for one in found}
    assert share["model.dropout"] < 0.15
    assert importances(large_sweep(120)) == found
    assert importances(large_sweep(8)) == []


def test_more_is_better_for_importance_too() -> None:
    trials = [
        trial(n, {"model.depth": n % 4 + 1, "model.dropout": (n * 7 % 10) / 20}, [float(n % 4)])
        for n in range(40)
    ]
    assert importances(sweep(*trials, mode="max"))[0].key == "model.depth"


def test_failures_have_their_class_and_what_they_share() -> None:
    (group,) = failures(large_sweep(80))
    assert group.failure == "non_finite"
    told = {one.key: one.what for one in group.shared}
    assert told["schedule.kind"] == "= exp_range"
    assert told["schedule.peak_lr"].startswith("at least 0.02")
    assert "model.depth" not in told
    assert "model.dropout" not in told


def test_what_chance_would_share_is_not_told() -> None:
    lost = [
        TrialRecord(n, values, "failed", (run(None, state="failed", failure="code"),), METRIC)
        for n, values in enumerate([COSINE, COSINE])
    ]
    half = sweep(*lost, trial(2, COSINE, [0.7]), trial(3, CYCLE, [0.8]))
    (group,) = failures(half)
    assert (group.failure, len(group.runs), group.shared) == ("code", 2, ())
