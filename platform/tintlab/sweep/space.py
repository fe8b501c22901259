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
under some values of another, searched before it. Settings that make sense only together are
`variants`: named, and tried like the values of one key called `variant`.
"""

import hashlib
import importlib.util
import inspect
import json
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from pydantic import ConfigDict, Field

from tintlab.config import ExperimentConfig, unknown_key
from tintlab.errors import ConfigError
from tintlab.settings import Settings

VARIANT = "variant"
"""What the choice among the variants is called in trials, tables and starting points."""

CHECK_SAMPLES = 200
"""Configurations drawn at random before a sweep starts, each of which the config must accept."""


@dataclass(frozen=True)
class When:
    """A distribution that applies only while `key` has one of `values`."""

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
    start: tuple[dict[str, Any], ...] = ()
    """Configurations to try first; keys left out are searched."""
    sampler: Literal["tpe", "gp", "random", "nsga2"] = "tpe"
    """Which of Optuna's samplers draws: tpe (multivariate, grouped), gp (no conditional keys),
    random, nsga2 (for several objectives)."""
    stopping: Literal["asha", "median", "none"] = "asha"
    """Stop a trial that is behind the others after the same number of steps; none lets all end."""
    replicates: int = Field(1, ge=1, le=64)
    """Seeds that each configuration is trained with; its score is their mean."""
    objectives: dict[str, Literal["min", "max"]] = Field(default_factory=dict)
    """Further reported metrics to trade off against `metric`, which leads the search."""
    reference: dict[str, Any] = Field(default_factory=dict)
    """Values of searched keys: the configurations that have them are what the others are to beat,
    such as `{"schedule.kind": "cosine"}`. The report's answer compares with the best of them."""

    def base(self) -> ExperimentConfig:
        """The experiment before anything is searched.

        Raises: ConfigError: a fixed key or value that the config refuses.
        """
        return ExperimentConfig().replaced(self.fixed)

    def check(self, base: ExperimentConfig) -> None:
        """Refuse a space that could not run.

        Raises: ConfigError: an unknown key (the nearest is named), a key both fixed and searched, a
            condition on a key that is not searched before it, a value that the config refuses.
        """
        known = base.flat()
        if not self.choices:
            raise ConfigError("the search space is empty; give at least one key in search=")
        for key in self.asked_keys:
            if key not in known:
                raise ConfigError(unknown_key(key, list(known)))
            if key in self.search and key in self.fixed:
                raise ConfigError(f"{key} is both fixed and searched; remove one of the two")
            if key in self.search and any(key in settings for settings in self.variants.values()):
                raise ConfigError(f"{key} is both in a variant and searched; remove one of the two")
        seen: list[str] = []
        for key, entry in self.search.items():
            if isinstance(entry, When) and entry.key not in seen and entry.key not in known:
                raise ConfigError(f"{key} depends on {unknown_key(entry.key, list(known))}")
            if isinstance(entry, When) and entry.key not in seen and entry.key in self.search:
                raise ConfigError(f"{key} depends on {entry.key}; list {entry.key} before it")
            seen.append(key)
        for point in self.start:
            for key, value in point.items():
                if key not in self.choices:
                    raise ConfigError(f"start has {key}, which is not searched; remove it")
                self._check_value(key, value)
        self.trials()
        self._check_samples(base)

    def _check_value(self, key: str, value: Any) -> None:
        entry = self.choices[key]
        distribution = entry.distribution if isinstance(entry, When) else entry
        if isinstance(distribution, CategoricalDistribution):
            inside = value in distribution.choices
        else:
            assert isinstance(distribution, IntDistribution | FloatDistribution)
            number = isinstance(value, int | float)
            inside = number and distribution.low <= value <= distribution.high
        if not inside:
            raise ConfigError(f"start has {key}={value!r}, outside {distribution}")

    def _check_samples(self, base: ExperimentConfig) -> None:
        import logging

        # A study of its own, in memory and quiet: nothing of the check may reach the ledger.
        optuna.logging.get_logger("optuna").setLevel(logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(CHECK_SAMPLES):
            try:
                self.experiment(base, self.suggest(study.ask(), base))
            except ConfigError as error:
                raise ConfigError(
                    f"the space contains a value the config refuses: {error}"
                ) from None

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

    def trials(self, asked: int | None = None) -> int:
        """How many trials to run: as many as asked for, else the space's own number.

        Raises: ConfigError: there is no number, or more trials than an exhaustive space has.
        """
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

        Raises: ConfigError: exhaustive, and a key's values cannot be counted.
        """
        points = list(self.start)
        if self.exhaustive:
            every: list[dict[str, Any]] = [{}]
            for key, entry in self.choices.items():
                values = _values(key, entry)
                every = [{**point, key: value} for value in values for point in every]
            points += [point for point in every if point not in points]
        return points

    def suggest(self, trial: optuna.Trial, base: ExperimentConfig) -> dict[str, Any]:
        """The values of one trial, `{dotted key: value}`, drawn by the study's sampler."""
        values: dict[str, Any] = {}
        for key, entry in self.choices.items():
            if isinstance(entry, When):
                flat = self.experiment(base, values).flat()
                if flat[entry.key] not in entry.values or (
                    entry.key in self.search and entry.key not in values
                ):
                    continue
                entry = entry.distribution
            values[key] = _suggest(trial, key, entry)
        return values

    def experiment(self, base: ExperimentConfig, values: dict[str, Any]) -> ExperimentConfig:
        """The experiment of a trial with these values.

        Raises: ConfigError: the config refuses them.
        """
        settings = {key: value for key, value in values.items() if key != VARIANT}
        if VARIANT in values:
            settings = {**self.variants[values[VARIANT]], **settings}
        return base.replaced(settings)

    def description(self) -> dict[str, Any]:
        """The space as plain data: what its fingerprint is made of, and what a difference shows."""

        def plain(entry: BaseDistribution | When) -> Any:
            if isinstance(entry, When):
                inner = plain(entry.distribution)
                return {"when": entry.key, "in": list(entry.values), "distribution": inner}
            return json.loads(distribution_to_json(entry))

        whole: dict[str, Any] = {
            "search": {key: plain(entry) for key, entry in self.search.items()},
            "metric": self.metric,
            "mode": self.mode,
        }
        if self.variants:
            whole["variants"] = self.variants
        return whole


def _values(key: str, entry: BaseDistribution | When) -> list[Any]:
    if isinstance(entry, CategoricalDistribution):
        return list(entry.choices)
    if isinstance(entry, IntDistribution):
        return list(range(entry.low, entry.high + 1, entry.step))
    raise ConfigError(f"an exhaustive space cannot count the values of {key}; list them")


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


@dataclass(frozen=True)
class Question:
    """A search space with the name of its file and the question in its docstring."""

    name: str
    text: str
    space: SearchSpace

    def check(self, experiment: ExperimentConfig) -> None:
        """Refuse what could not run, and a setting given for a key that is searched.

        Raises: ConfigError: one line that names the key.
        """
        given, base = experiment.flat(), self.space.base().flat()
        for key in self.space.asked_keys:
            if key in base and given[key] != base[key]:
                raise ConfigError(f"--{key} is searched by {self.name}; leave it out")
        self.space.check(experiment)


def load_space(name_or_file: str) -> Question:
    """The search space of this name in `search_spaces/`, or in this Python file.

    Raises: ConfigError: no such space (the known ones are named), no SPACE or docstring in it.
    """
    if name_or_file.endswith(".py") or "/" in name_or_file:
        module = _module_at(Path(name_or_file))
        name = Path(name_or_file).stem
    else:
        names = space_names()
        if name_or_file not in names:
            raise ConfigError(
                f"no search space {name_or_file!r}; there are {', '.join(names)}, "
                "or give the path of a Python file"
            )
        module = importlib.import_module(f"search_spaces.{name_or_file}")
        name = name_or_file
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        raise ConfigError(f"search space {name} has no SPACE = SearchSpace(...)")
    text = inspect.cleandoc(module.__doc__ or "")
    if "?" not in text:
        raise ConfigError(f"search space {name} has no question in its docstring")
    return Question(name, text[: text.index("?") + 1].replace("\n", " "), space)


def space_names() -> list[str]:
    """Names of the spaces that come with tintlab."""
    import search_spaces

    return sorted(found.name for found in pkgutil.iter_modules(search_spaces.__path__))


def _module_at(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"no search space file {file}; known names: {', '.join(space_names())}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    load: Callable[[ModuleType], None] = spec.loader.exec_module
    try:
        load(module)
    except Exception as error:  # a user's own file: whatever it raises is theirs to read
        raise ConfigError(f"{file} fails on import: {type(error).__name__}: {error}") from None
    return module


def fingerprint(space: SearchSpace, base: ExperimentConfig) -> str:
    """Changes when the space or any setting that is not searched changes."""
    rest = {key: value for key, value in base.flat().items() if key not in space.search}
    content = json.dumps({"space": space.description(), "base": rest}, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
