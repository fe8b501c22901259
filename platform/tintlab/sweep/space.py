"""The search-space language: one question per file, as data.

    SPACE = SearchSpace(
        fixed={"training.steps": 300},
        search={
            "schedule.kind": CategoricalDistribution(("cosine", "triangular")),
            "schedule.cycle_steps": When("schedule.kind", ("triangular",), IntDistribution(5, 9)),
        },
        metric="val/bits_per_dim",
        mode="min",
        num_trials=12,
    )

Keys are dotted config keys; values are Optuna distributions, or `When` for a key that exists only
under some values of another, searched before it; that one may depend on a third. Settings that make
sense only together are `variants`: named, and tried like the values of one key called `variant`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from pydantic import ConfigDict, Field

from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError
from tintlab.settings import Settings

VARIANT = "variant"
"""What the choice among the variants is called in trials, tables and starting points."""

CHAMPION = "champion"
"""Among the starting points: what is searched, as the @champion of that moment has it."""

MOST_COMBINATIONS = 10_000
"""Of an exhaustive space; more are no question that trying everything can answer."""


@dataclass(frozen=True)
class When:
    """A distribution that applies only while `key` has one of `values`.

    `key` may be conditional itself: where it does not apply, this does not either.
    """

    key: str
    values: tuple[Any, ...]
    distribution: BaseDistribution


class SearchSpace(Settings):
    """A question as data: what is fixed, what is searched, and what decides."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    fixed: dict[str, Any] = Field(default_factory=dict)
    """Dotted config keys with one value for every trial."""
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name of a variant -> the dotted config keys it sets; the others keep what is fixed."""
    search: dict[str, BaseDistribution | When] = Field(default_factory=dict)
    """Dotted config keys with the distribution to search."""
    metric: str = "val/bits_per_dim"
    """The reported metric that ranks the trials."""
    mode: Literal["min", "max"] = "min"
    """Whether a small or a large metric is good."""
    num_trials: int | None = Field(None, ge=1)
    """Trials in all; an exhaustive space knows it by itself."""
    exhaustive: bool = False
    """Try every combination once, instead of searching; needs values that can be counted. The last
    key changes slowest: with a seed there, the first trials are every configuration once."""
    start: tuple[dict[str, Any] | Literal["champion"], ...] = ()
    """Configurations to try first; keys left out are searched. "champion" stands for the searched
    keys of the model that is @champion when the sweep starts, if there is one."""
    sampler: Literal["tpe", "gp", "random", "nsga2"] = "tpe"
    """Which of Optuna's samplers draws: tpe (multivariate, grouped), gp (no conditional keys),
    random, nsga2 (for several objectives)."""
    stopping: Literal["asha", "median", "none"] = "asha"
    """Stop a trial that is behind the others after the same number of steps; none lets all end."""
    replicates: int = Field(1, ge=1, le=64)
    """Seeds that each configuration is trained with; its score is their mean."""
    objectives: dict[str, Literal["min", "max"]] = Field(default_factory=dict)
    """Further reported metrics to trade off against `metric`, which leads: it ranks and stops."""
    reference: dict[str, Any] = Field(default_factory=dict)
    """Values of searched keys: the configurations that have them are what the others are to beat,
    such as `{"schedule.kind": "cosine"}`. The report's answer compares with the best of them."""

    def base(self) -> ExperimentConfig:
        """The experiment before anything is searched.

        Raises: ConfigError: a fixed key or value that the config refuses.
        """
        return ExperimentConfig().replaced(self.fixed)

    @property
    def choices(self) -> dict[str, BaseDistribution | When]:
        """What a trial is drawn from: the variant, if there are any, then the searched keys."""
        names = {VARIANT: CategoricalDistribution(tuple(self.variants))} if self.variants else {}
        return {**names, **self.search}

    @property
    def asked_keys(self) -> list[str]:
        """The config keys in which trials may differ."""
        of_variants = [key for settings in self.variants.values() for key in settings]
        return list(dict.fromkeys([*of_variants, *self.search]))

    @property
    def own_keys(self) -> list[str]:
        """The config keys that the question decides on: fixed, or those in which trials differ."""
        return [*self.fixed, *self.asked_keys]

    @property
    def directions(self) -> dict[str, Literal["min", "max"]]:
        """Every objective with what is good of it, the leading metric first."""
        return {self.metric: self.mode, **self.objectives}

    def trials(self, asked: int | None = None) -> int:
        """How many trials to run: as many as asked for, else the space's own number.

        Raises: ConfigError: none are asked for, there is no number, or there are more than an
            exhaustive space has.
        """
        if asked is not None and asked < 1:
            raise ConfigError(f"num_trials must be at least 1, got {asked}")
        wanted = asked or self.num_trials
        if not self.exhaustive:
            if wanted is None:
                raise ConfigError("the search space has no num_trials; give one")
            return wanted
        points = len(self.first_points())
        if wanted is not None and wanted > points:
            raise ConfigError(
                f"the space is exhaustive and has {points} combinations, got num_trials={wanted}; "
                "leave it out to try them all"
            )
        return wanted or points

    def first_points(self) -> list[dict[str, Any]]:
        """The configurations to try before any is drawn; of an exhaustive space, all there are.

        "champion" among them is left out: `with_champion` puts its values there.

        Raises: ConfigError: exhaustive, and a key's values cannot be counted or are too many.
        """
        start = [point for point in self.start if isinstance(point, dict)]
        if not self.exhaustive:
            return start
        every = self._combinations()
        first: list[dict[str, Any]] = []
        for asked in start:
            first += [p for p in every if asked.items() <= p.items() and p not in first]
        return [*first, *(point for point in every if point not in first)]

    def _combinations(self) -> list[dict[str, Any]]:
        base = self.base().flat()
        every: list[dict[str, Any]] = [{}]
        for key, entry in self.choices.items():
            values = countable(entry.distribution if isinstance(entry, When) else entry)
            if values is None:
                raise ConfigError(
                    f"an exhaustive space cannot count the values of {key}; list them"
                )
            if len(values) * len(every) > MOST_COMBINATIONS:
                raise ConfigError(
                    f"the space is exhaustive and has more than {MOST_COMBINATIONS:,} "
                    "combinations; list fewer values, or search with num_trials"
                )
            applies = [self._applies(entry, point, base) for point in every]
            once = [point for point, more in zip(every, applies, strict=True) if not more]
            several = [point for point, more in zip(every, applies, strict=True) if more]
            every = once + [{**point, key: value} for value in values for point in several]
        return every

    def suggest(self, trial: optuna.Trial, base: ExperimentConfig) -> dict[str, Any]:
        """The values of one trial, `{dotted key: value}`, drawn by the study's sampler."""
        return self.drawn(lambda key, distribution: _suggest(trial, key, distribution), base)

    def drawn(
        self, draw: Callable[[str, BaseDistribution], Any], base: ExperimentConfig
    ) -> dict[str, Any]:
        """The values of one trial: `draw` is asked for each key that applies, in order."""
        known = base.flat()
        values: dict[str, Any] = {}
        for key, entry in self.choices.items():
            if self._applies(entry, values, known):
                values[key] = draw(key, entry.distribution if isinstance(entry, When) else entry)
        return values

    def _applies(
        self, entry: BaseDistribution | When, values: Mapping[str, Any], base: Mapping[str, Any]
    ) -> bool:
        """Whether a key is searched, once the keys before it have these values.

        No configuration is made for it: one with half its values need not be valid.
        """
        if not isinstance(entry, When):
            return True
        if entry.key in self.choices:
            return entry.key in values and values[entry.key] in entry.values
        return self.settings(values).get(entry.key, base[entry.key]) in entry.values

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The config keys that a trial with these values sets: its variant's, and its own."""
        own = {key: value for key, value in values.items() if key != VARIANT}
        return {**self.variants[values[VARIANT]], **own} if VARIANT in values else own

    def experiment(self, base: ExperimentConfig, values: Mapping[str, Any]) -> ExperimentConfig:
        """The experiment of a trial with these values.

        Raises: ConfigError: the config refuses them.
        """
        return base.replaced(self.settings(values))

    def description(self) -> dict[str, Any]:
        """The space as plain data: what a sweep's record keeps, and what a difference shows.

        How many trials there are is not in it, since a sweep may go on with more; what is fixed is
        in the base configuration.
        """
        whole = self.model_dump(mode="python", exclude={"fixed", "search", "num_trials"})
        searched = {key: _plain(entry) for key, entry in self.search.items()}
        return json.loads(json.dumps({"search": searched, **whole}))


def described(description: Mapping[str, Any], fixed: Mapping[str, Any]) -> SearchSpace:
    """The space of a `SearchSpace.description`: a sweep goes on with it without its file."""

    def entry(plain: Mapping[str, Any]) -> BaseDistribution | When:
        if "when" in plain:
            inner = json_to_distribution(json.dumps(plain["distribution"]))
            return When(plain["when"], tuple(plain["in"]), inner)
        return json_to_distribution(json.dumps(plain))

    search = {key: entry(plain) for key, plain in description["search"].items()}
    return SearchSpace(**{**description, "fixed": dict(fixed), "search": search})


def countable(distribution: BaseDistribution) -> list[Any] | None:
    """Every value of a distribution in order, or None if they cannot be counted."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        low, high, step = (
            Decimal(str(x)) for x in (distribution.low, distribution.high, distribution.step)
        )
        return [float(low + n * step) for n in range(int((high - low) / step) + 1)]
    return None


def outermost(distribution: BaseDistribution, few: int) -> list[Any]:
    """Every value of a choice, or of a range of so `few`; else both ends of the range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    values = countable(distribution)
    if values is not None and len(values) <= few:
        return values
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value is one that the distribution can give."""
    if isinstance(distribution, CategoricalDistribution):
        boolean = isinstance(value, bool)  # which equals 0 or 1
        return any(
            value == one and isinstance(one, bool) == boolean for one in distribution.choices
        )
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    if isinstance(distribution, IntDistribution):
        return (value - distribution.low) % distribution.step == 0
    values = countable(distribution)
    return values is None or value in values


def _plain(entry: BaseDistribution | When) -> Any:
    if isinstance(entry, When):
        inner = _plain(entry.distribution)
        return {"when": entry.key, "in": list(entry.values), "distribution": inner}
    return json.loads(distribution_to_json(entry))


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    raise ConfigError(
        f"{name}: {type(distribution).__name__} is not a distribution tintlab searches"
    )
