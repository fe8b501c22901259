"""Which searched keys decided whether a configuration came out among the best.

PED-ANOVA (Watanabe, Bansal and Hutter 2023, PED-ANOVA: Efficiently Quantifying Hyperparameter
Importance in Arbitrary Subspaces) compares how a key's values are spread among the best
configurations and among all; Optuna computes it. With few configurations it says more about chance
than about keys, so it is repeated on configurations drawn anew, and shown with how far it moves.
"""

import warnings
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from tintlab.sweep.answer import completed
from tintlab.sweep.records import SweepRecord, TrialRecord

LEAST = 10
"""Complete configurations below which nothing is told."""
BEST = 5
"""At least so many are the best ones that are compared with all; the paper's tenth of a small sweep
would be one or two."""
BEST_SHARE = 0.1
"""Of the configurations, if that is more; the default of Optuna."""
DRAWS = 40
"""Times that configurations are drawn anew: the ends of four fifths leave out four on each side."""
LOG_SPAN = 5.0
"""From this ratio of the largest to the smallest value on, positive floats are spread by ratio."""


@dataclass(frozen=True)
class Importance:
    """A key's share of what all keys together decide."""

    key: str
    share: float
    low: float
    """Below it are a tenth of the shares over configurations drawn anew."""
    high: float
    """Above it are a tenth."""


def importances(record: SweepRecord, seed: int = 0) -> list[Importance]:
    """The searched keys, most important first; empty with too few configurations, or too few keys
    that took more than one value."""
    trials = completed(record)
    spread = distributions(trials)
    if len(trials) < LEAST or len(spread) < 2:
        return []
    shares = _shares(trials, spread, record.mode)
    generator = np.random.default_rng(seed)
    again = []
    for _ in range(DRAWS):
        drawn = generator.integers(len(trials), size=len(trials))
        again.append(_shares([trials[at] for at in drawn.tolist()], spread, record.mode))
    found = []
    for key, share in shares.items():
        low, high = np.percentile([one.get(key, 0.0) for one in again], [10, 90])
        found.append(Importance(key, share, min(float(low), share), max(float(high), share)))
    return sorted(found, key=lambda one: -one.share)


def best_count(trials: int) -> int:
    """How many of so many configurations are compared with all of them."""
    return max(BEST, round(BEST_SHARE * trials))


def distributions(trials: Sequence[TrialRecord]) -> dict[str, BaseDistribution]:
    """What the values of each key cover; only of keys that took more than one value."""
    found: dict[str, BaseDistribution] = {}
    for key in dict.fromkeys(key for trial in trials for key in trial.values):
        values = [trial.values[key] for trial in trials if key in trial.values]
        if len(set(map(repr, values))) > 1:
            found[key] = _covering(values)
    return found


def by_ratio(values: Sequence[Any]) -> bool:
    """Whether values are better seen on a logarithmic axis."""
    numbers = all(isinstance(value, float) and value > 0 for value in values)
    return numbers and max(values) >= LOG_SPAN * min(values)


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether all are numbers; True and False are none."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _covering(values: Sequence[Any]) -> BaseDistribution:
    if not are_numbers(values):
        return CategoricalDistribution(tuple(dict.fromkeys(map(str, values))))
    if all(isinstance(value, int) for value in values):
        return IntDistribution(min(values), max(values))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=by_ratio(values))


class _Drawn(optuna.Study):
    """A study of these trials; a storage would copy each of them, deeply, each time."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.InMemoryStorage()
        name = optuna.create_study(storage=storage).study_name
        super().__init__(name, storage)
        self._drawn = trials

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All of them: each is complete."""
        return self._drawn


def _shares(
    trials: Sequence[TrialRecord], spread: dict[str, BaseDistribution], mode: str
) -> dict[str, float]:
    sign = 1.0 if mode == "min" else -1.0  # the evaluator takes low values for good ones
    frozen = []
    for number, trial in enumerate(trials):
        own = {key: one for key, one in spread.items() if key in trial.values}
        assert trial.score is not None
        frozen.append(
            FrozenTrial(
                number=number,
                trial_id=number,
                state=TrialState.COMPLETE,
                value=sign * trial.score,
                params={key: _inside(trial.values[key], one) for key, one in own.items()},
                distributions=own,
                datetime_start=None,
                datetime_complete=None,
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
        )
    with warnings.catch_warnings():  # of few trials under a condition: the drawing anew shows that
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(
            target_quantile=best_count(len(trials)) / len(trials)
        )
        present = [key for key in spread if any(key in trial.params for trial in frozen)]
        raw = evaluator.evaluate(_Drawn(frozen), present)
    whole = sum(raw.values())
    return {key: value / whole if whole else 0.0 for key, value in raw.items()}


def _inside(value: Any, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return str(value)
    return float(value) if isinstance(distribution, FloatDistribution) else value
