"""What makes a search space one that can run, found out before anything starts.

Words first (keys, conditions, starting points, samplers), then values: the config is made from the
extremes of what is searched, from their combinations, and from configurations drawn at random.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tintlab.config import ExperimentConfig, unknown_key
from tintlab.errors import ConfigError
from tintlab.evaluation.validate import validation_metrics
from tintlab.sweep.space import SearchSpace, When, holds, outermost
from tintlab.training.objective import term_names

SEED = "training.seed"

DRAWN = 200
"""Configurations drawn at random, each of which the config must accept."""

MOST_COMBINED = 1000
"""Combinations of extremes that are tried in full; of more, every pair of keys."""

FEW_VALUES = 32
"""An integer with so many values is tried at each: rules such as multiples of 4 are in between."""


def check(space: SearchSpace, base: ExperimentConfig) -> None:
    """Refuse a space that could not run on this base configuration.

    Raises: ConfigError: one line that names the key, what was given, and what to do.
    """
    known = base.flat()
    if not space.choices:
        raise ConfigError("the search space is empty; give at least one key in search=")
    _check_keys(space, known)
    _check_conditions(space, known)
    for point in space.start:
        if isinstance(point, dict):
            _check_point(space, point, "start")
    _check_point(space, space.reference, "reference")
    _check_sampler(space)
    _check_seeds(space)
    space.trials()
    _check_values(space, base)


def reported_metrics(config: ExperimentConfig) -> list[str]:
    """Names of what a training with these settings reports at every validation."""
    names = [f"train/{term}" for term in term_names(config)]
    return [*validation_metrics(config.evaluation), *names, "perf/images_per_s", "lr"]


def _check_keys(space: SearchSpace, known: Mapping[str, Any]) -> None:
    for key in space.asked_keys:
        if key not in known:
            raise ConfigError(unknown_key(key, list(known)))
        if key in space.search and key in space.fixed:
            raise ConfigError(f"{key} is both fixed and searched; remove one of the two")
        if key in space.search and any(key in settings for settings in space.variants.values()):
            raise ConfigError(f"{key} is both in a variant and searched; remove one of the two")
    for key, entry in space.search.items():
        distribution = entry.distribution if isinstance(entry, When) else entry
        if not isinstance(
            distribution, FloatDistribution | IntDistribution | CategoricalDistribution
        ):
            raise ConfigError(
                f"{key}: {type(distribution).__name__} is not a distribution tintlab searches"
            )
        if distribution.single() and not isinstance(entry, When):
            raise ConfigError(
                f"{key} has one value only ({distribution}); put it in fixed=, or give a range"
            )


def _check_conditions(space: SearchSpace, known: Mapping[str, Any]) -> None:
    names = list(space.choices)
    for place, (key, entry) in enumerate(space.choices.items()):
        if not isinstance(entry, When):
            continue
        if entry.key not in names and entry.key not in known:
            raise ConfigError(f"{key} depends on {unknown_key(entry.key, [*names, *known])}")
        if not entry.values:
            raise ConfigError(f"{key} depends on {entry.key}, but on no value of it; give values")
        if entry.key not in names:
            continue
        if names.index(entry.key) >= place:
            raise ConfigError(f"{key} depends on {entry.key}; list {entry.key} before it")
        other = space.choices[entry.key]
        other = other.distribution if isinstance(other, When) else other
        for value in entry.values:
            if not holds(other, value):
                raise ConfigError(
                    f"{key} depends on {entry.key}={value!r}, which is never drawn: {other}"
                )


def _check_point(space: SearchSpace, point: Mapping[str, Any], what: str) -> None:
    """Refuse a point with keys or values that no trial can have."""
    for key, value in point.items():
        if key not in space.choices:
            raise ConfigError(f"{what} has {key}, which is not searched; remove it")
        entry = space.choices[key]
        distribution = entry.distribution if isinstance(entry, When) else entry
        if not holds(distribution, value):
            raise ConfigError(f"{what} has {key}={value!r}, outside {distribution}")
        if isinstance(entry, When) and entry.key in point and point[entry.key] not in entry.values:
            raise ConfigError(
                f"{what} has {key}={value!r} with {entry.key}={point[entry.key]!r}, which has no "
                f"{key}; remove one of the two"
            )


def _check_sampler(space: SearchSpace) -> None:
    conditional = [key for key, entry in space.search.items() if isinstance(entry, When)]
    if space.sampler == "gp" and conditional and not space.exhaustive:
        raise ConfigError(
            f"sampler gp cannot search {conditional[0]}, which is conditional; use tpe"
        )
    if space.sampler == "nsga2" and not space.objectives:
        raise ConfigError(
            "sampler nsga2 is for several objectives, and objectives= is empty; name some, or use "
            "tpe"
        )
    if space.objectives and space.sampler not in ("tpe", "nsga2") and not space.exhaustive:
        raise ConfigError(
            f"sampler {space.sampler} searches for one objective, and objectives= names more; use "
            "tpe or nsga2"
        )
    if space.metric in space.objectives:
        raise ConfigError(
            f"objectives has {space.metric}, which is the leading metric; name others there"
        )


def _check_seeds(space: SearchSpace) -> None:
    if space.replicates > 1 and SEED in space.asked_keys:
        raise ConfigError(
            f"{SEED} is searched, and replicates={space.replicates} trains every configuration "
            "with several seeds already; remove one of the two"
        )


def _check_values(space: SearchSpace, base: ExperimentConfig) -> None:
    seen: set[tuple[tuple[str, Any], ...]] = set()
    for values in itertools.chain(_extremes(space, base), _drawn(space, base)):
        settings = space.settings(values)
        if (same := tuple(settings.items())) in seen:
            continue
        seen.add(same)
        try:
            config = base.replaced(settings)
        except ConfigError as error:
            raise ConfigError(
                f"the config refuses {_culprits(space, base, values)}: "
                f"{str(error).removeprefix('overrides: ')}"
            ) from None
        _check_metrics(space, config, values)


def _check_metrics(space: SearchSpace, config: ExperimentConfig, values: dict[str, Any]) -> None:
    reported = reported_metrics(config)
    for metric in space.directions:
        if metric not in reported:
            nearest = get_close_matches(metric, reported, n=1, cutoff=0.0)[0]
            where = "" if metric.startswith("val/") else f" with {_shown(values)}"
            raise ConfigError(
                f"{metric} is never reported{where}; did you mean {nearest}? "
                f"There are {', '.join(reported)}"
            )


def _extremes(space: SearchSpace, base: ExperimentConfig) -> Iterator[dict[str, Any]]:
    """Combinations of the outermost values of every key."""
    of = {
        key: outermost(entry.distribution if isinstance(entry, When) else entry, FEW_VALUES)
        for key, entry in space.choices.items()
    }

    def point(picked: Mapping[str, Any]) -> dict[str, Any]:
        return space.drawn(lambda key, _: picked.get(key, of[key][0]), base)

    if math.prod(map(len, of.values())) <= MOST_COMBINED:
        for combination in itertools.product(*of.values()):
            yield point(dict(zip(of, combination, strict=True)))
        return
    ends = {key: [values[0], values[-1]] for key, values in of.items()}
    for key, values in of.items():
        yield from (point({key: value}) for value in values)
    for first, second in itertools.combinations(of, 2):
        for pair in itertools.product(ends[first], ends[second]):
            yield point(dict(zip((first, second), pair, strict=True)))


def _drawn(space: SearchSpace, base: ExperimentConfig) -> Iterator[dict[str, Any]]:
    # A study of its own, in memory and quiet: nothing of the check may reach the ledger.
    optuna.logging.get_logger("optuna").setLevel(logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(DRAWN):
        yield space.suggest(study.ask(), base)


def _culprits(space: SearchSpace, base: ExperimentConfig, values: Mapping[str, Any]) -> str:
    """Those of the values without which the config would accept the rest."""
    guilty = dict(values)
    for key in values:
        rest = {other: value for other, value in guilty.items() if other != key}
        try:
            space.experiment(base, rest)
        except ConfigError:
            guilty = rest
    return _shown(guilty)


def _shown(values: Mapping[str, Any]) -> str:
    return " and ".join(f"{key}={value!r}" for key, value in values.items())
