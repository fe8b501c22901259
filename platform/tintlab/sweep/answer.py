"""The answer to a sweep's question: one sentence, with how sure it is.

The best configuration is compared with the best of the reference, or, where there is none, with the
second best. Its lead is measured against the spread over seeds (`tintlab.sweep.seeds`); and as it
was picked because it came out best, the answer also says whether the lead holds when all that were
tried count as attempts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tintlab.evaluation.intervals import Interval
from tintlab.sweep.records import SweepRecord, TrialRecord
from tintlab.sweep.seeds import Difference, difference, mean_interval

MOST_NAMED = 12
"""Trials of a Pareto front that the sentence names; the report has all."""


@dataclass(frozen=True)
class Comparison:
    """The best configuration against what it has to beat."""

    winner: TrialRecord
    other: TrialRecord
    against_reference: bool
    """Whether one of the two is the best of the reference; else the other is the runner-up."""
    reference_wins: bool
    difference: Difference | None
    """The winner's mean less the other's; None if either has one seed."""
    others: int
    """Configurations on the side that did not win."""
    tried: int
    """Configurations that the winner is the best of, and that could have come out so by chance."""


def answer(record: SweepRecord) -> str:
    """One sentence that answers the question, says how sure that is, and never more than is known.

    With several objectives it also names the Pareto front.
    """
    complete = completed(record)
    if not complete:
        yet = " yet" if record.ended is None else ""
        told = _others(record) or "none was begun"
        return f"No configuration was trained to the end ({told}), so there is no answer{yet}."
    if len(complete) == 1:
        return f"{_lone(record, complete[0])}{_front(record)}."
    return f"{_compared(record, comparison(record, complete))}{_front(record)}."


def completed(record: SweepRecord) -> list[TrialRecord]:
    """Configurations with a finite score that were trained to the end, best first."""
    return [
        trial
        for trial in record.ranked
        if trial.state == "complete" and trial.score is not None and math.isfinite(trial.score)
    ]


def comparison(record: SweepRecord, complete: Sequence[TrialRecord]) -> Comparison:
    """What to compare of at least two complete configurations, best first."""
    reference = [trial for trial in complete if is_reference(record, trial)]
    rest = [trial for trial in complete if not is_reference(record, trial)]
    winner = complete[0]
    if reference and rest:
        mine, theirs = (reference, rest) if winner is reference[0] else (rest, reference)
        other, others, tried = theirs[0], len(theirs), len(mine)
    else:
        other, others, tried = complete[1], len(complete) - 1, len(complete) - 1
    return Comparison(
        winner=winner,
        other=other,
        against_reference=bool(reference and rest),
        reference_wins=bool(reference and rest) and winner is reference[0],
        difference=difference(scores(winner), scores(other)),
        others=others,
        tried=tried,
    )


def is_reference(record: SweepRecord, trial: TrialRecord) -> bool:
    """Whether a configuration is one that the others are to beat."""
    absent = object()
    return bool(record.reference) and all(
        trial.values.get(key, absent) == value for key, value in record.reference.items()
    )


def pareto_front(record: SweepRecord) -> list[TrialRecord]:
    """Complete configurations that no other is at least as good as in all objectives, and better
    in one; best in the leading metric first. Of several with equal values, all are in it."""
    measured: list[tuple[TrialRecord, list[float]]] = []
    for trial in completed(record):
        means = [(trial.mean(name), mode) for name, mode in record.objectives.items()]
        costs = [value if mode == "min" else -value for value, mode in means if value is not None]
        if len(costs) == len(means) and all(map(math.isfinite, costs)):
            measured.append((trial, costs))
    return [
        trial
        for trial, own in measured
        if not any(
            other != own and all(theirs <= mine for theirs, mine in zip(other, own, strict=True))
            for _, other in measured
        )
    ]


def scores(trial: TrialRecord) -> list[float]:
    """The leading metric of each complete run."""
    return [run.metrics[trial.metric] for run in trial.complete]


def score_interval(trial: TrialRecord) -> Interval | None:
    """The mean over seeds with its interval; None with fewer than two complete runs."""
    return mean_interval(scores(trial))


def described(values: Mapping[str, Any]) -> str:
    """The searched values of a configuration, as a person would write them."""
    return ", ".join(f"{key}={shown(value)}" for key, value in values.items()) or "the base"


def searched(trials: Sequence[TrialRecord]) -> list[str]:
    """The keys that the configurations have values for, in order."""
    return list(dict.fromkeys(key for trial in trials for key in trial.values))


def shown(value: object) -> str:
    """A value, with four digits if it is a float."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def listed(numbers: Sequence[int]) -> str:
    """Trials by number: `trials 3, 5 and 7`."""
    words = [str(number) for number in numbers[:MOST_NAMED]]
    if len(numbers) > MOST_NAMED:
        words.append(f"{len(numbers) - MOST_NAMED} more")
    if len(words) == 1:
        return f"trial {words[0]}"
    return f"trials {', '.join(words[:-1])} and {words[-1]}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 seed`, `3 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _lone(record: SweepRecord, only: TrialRecord) -> str:
    interval = score_interval(only)
    if interval:
        seeds = f" (95 % interval {_span(interval)} over {counted(len(only.complete), 'seed')})"
    else:
        seeds = ", with one seed"
    others = _others(record)
    beside = f" ({others})" if others else ""
    return (
        f"Only one configuration{beside} was trained to the end, {described(only.values)} "
        f"(trial {only.number}): its {record.metric} is {only.score:.4f}{seeds}, "
        f"and there is nothing {'' if record.ended else 'yet '}to compare it with"
    )


def _compared(record: SweepRecord, found: Comparison) -> str:
    winner, other = found.winner, found.other
    assert winner.score is not None
    assert other.score is not None
    gap = abs(winner.score - other.score)
    reference = described(record.reference)
    so_far = record.ended is None
    if found.reference_wins:
        worse = "higher" if record.mode == "min" else "lower"
        apart = f"{gap:.4f} {worse}" if gap else "the same"
        few = (
            f"the best of {found.others} others"
            if found.others > 1
            else "the only other one that got to the end"
        )
        own = _besides(winner.values, record.reference)
        return (
            f"{'So far nothing' if so_far else 'Nothing'} beats {reference}: its best "
            f"(trial {winner.number}{own}) has {record.metric} {winner.score:.4f}, and {few} "
            f"(trial {other.number}: {described(other.values)}) is {apart}; {_certainty(found)}"
        )
    better = "lower" if record.mode == "min" else "higher"
    apart = f"{gap:.4f} {better} than that of" if gap else "the same as that of"
    if found.against_reference:
        role = f"the best with {reference}"
        own = _besides(other.values, record.reference)
    else:
        role, own = "the second best", f": {described(other.values)}"
    told = (
        f"{'So far the best' if so_far else 'The best'} is {described(winner.values)} "
        f"(trial {winner.number}): its {record.metric}, {winner.score:.4f}, is {apart} {role} "
        f"(trial {other.number}{own}); {_certainty(found)}"
    )
    if record.reference and not found.against_reference:
        all_have = is_reference(record, winner)
        told += f"; {'all have' if all_have else 'none got to the end with'} {reference}"
    return told


def _besides(values: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key not in known}
    return f": {described(rest)}" if rest else ""


def _certainty(found: Comparison) -> str:
    winner, other = found.winner, found.other
    if found.difference is None:
        single = [trial for trial in (winner, other) if len(trial.complete) < 2]
        which = "each has" if len(single) == 2 else f"trial {single[0].number} has"
        return f"{which} one seed only, so this may be chance"
    seeds = sorted({len(winner.complete), len(other.complete)})
    many = " and ".join(map(str, seeds)) + (" seeds each" if len(seeds) == 1 else " seeds")
    interval = found.difference.interval
    told = f"the difference has a 95 % interval of {_span(interval, sign=True)} over {many} (Welch)"
    if not interval.excludes_zero:
        return f"{told}, which includes 0: the two cannot be told apart"
    if found.tried == 1:
        return f"{told}, more than seeds explain"
    if found.difference.holds_among(found.tried):
        return f"{told}, more than seeds explain even for the best of {found.tried} (Bonferroni)"
    return (
        f"{told}, which excludes 0, but would not if all {found.tried} that were tried counted "
        "(Bonferroni): likely, not sure"
    )


def _front(record: SweepRecord) -> str:
    if len(record.objectives) < 2:
        return ""
    front = pareto_front(record)
    names = " and ".join(f"{name} ({mode})" for name, mode in record.objectives.items())
    count = len(completed(record))
    return (
        f"; of {counted(count, 'complete configuration')} {len(front)} "
        f"{'is' if len(front) == 1 else 'are'} Pareto-optimal in {names}: "
        f"{listed([trial.number for trial in front]) if front else 'none'}"
    )


def _others(record: SweepRecord) -> str:
    """How many are not complete, in words; empty if none."""
    words = {"stopped": "stopped early", "running": "unfinished", "failed": "failed"}
    counts = {state: sum(t.state == state for t in record.trials) for state in words}
    told = [f"{count} {words[state]}" for state, count in counts.items() if count]
    return ", ".join(told)


def _span(interval: Interval, sign: bool = False) -> str:
    form = "+.4f" if sign else ".4f"
    return f"{interval.low:{form}} to {interval.high:{form}}"
