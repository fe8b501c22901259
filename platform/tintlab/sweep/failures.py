"""What failed in a sweep, by class, and what the failed configurations have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tintlab.sweep.answer import shown
from tintlab.sweep.importance import are_numbers
from tintlab.sweep.records import RunRecord, SweepRecord, TrialRecord

CHANCE = 0.05
"""What failed configurations would as often have in common by chance is not told."""


@dataclass(frozen=True)
class Shared:
    """Values of one key that all failed configurations have, and few others."""

    key: str
    what: str
    """`= exp_range`, or `at least 0.006`."""
    others_with: int
    others: int


@dataclass(frozen=True)
class Failures:
    """The failures of one class."""

    failure: str
    runs: tuple[tuple[TrialRecord, RunRecord], ...]
    shared: tuple[Shared, ...]
    """The most telling first."""


def failures(record: SweepRecord) -> list[Failures]:
    """Failed runs by class, the most frequent class first."""
    by_class: dict[str, list[tuple[TrialRecord, RunRecord]]] = {}
    for trial in record.trials:
        for run in trial.runs:
            if run.state == "failed":
                by_class.setdefault(run.failure or "unknown", []).append((trial, run))
    groups = []
    for failure, runs in by_class.items():
        failed = list({trial.number: trial for trial, _ in runs}.values())
        others = [t for t in record.trials if t.state in ("complete", "stopped")]
        groups.append(Failures(failure, tuple(runs), tuple(shared(failed, others))))
    return sorted(groups, key=lambda group: -len(group.runs))


def shared(failed: Sequence[TrialRecord], others: Sequence[TrialRecord]) -> list[Shared]:
    """What two or more failed configurations have in common that chance would seldom give them.

    A value, or an end of the range: of as many configurations drawn at random all would have it
    less often than CHANCE.
    """
    numbers = {trial.number for trial in failed}
    others = [trial for trial in others if trial.number not in numbers]
    if len(failed) < 2 or not others:
        return []
    found = []
    for key in failed[0].values:
        if not all(key in trial.values for trial in failed):
            continue
        values = [trial.values[key] for trial in failed]
        rest = [trial.values[key] for trial in others if key in trial.values]
        if are_numbers([*values, *rest]):
            low, high = min(values), max(values)
            sides = [
                (f"at least {shown(low)}", sum(value >= low for value in rest)),
                (f"at most {shown(high)}", sum(value <= high for value in rest)),
            ]
        elif len(set(map(repr, values))) == 1:
            sides = [(f"= {shown(values[0])}", sum(value == values[0] for value in rest))]
        else:
            continue
        what, others_with = min(sides, key=lambda side: side[1])
        tries = len(sides) if len(sides) > 1 else len({*map(repr, values), *map(repr, rest)})
        by_chance = math.comb(len(failed) + others_with, len(failed)) / math.comb(
            len(failed) + len(others), len(failed)
        )
        if by_chance * tries < CHANCE:
            found.append(Shared(key, what, others_with, len(others)))
    return sorted(found, key=lambda one: one.others_with)
