"""What a sweep was started with: all that it takes to continue it, and what may not change."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import BaseDistribution

from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError, ConflictError, IntegrityError
from tintlab.redaction import redacted
from tintlab.settings import SweepConfig
from tintlab.sweep.code import code_difference
from tintlab.sweep.difference import difference
from tintlab.sweep.question import Question
from tintlab.sweep.space import SearchSpace, When, described
from tintlab.training.request import MAY_CHANGE

FORMAT = 1
"""Version of the record of a sweep."""


@dataclass(frozen=True)
class Started:
    """A question on a base experiment, photos and code, with how many trials at what cost."""

    question: Question
    source: str
    """The name or file that the question was loaded from."""
    base: ExperimentConfig
    seed: int
    shards_uri: str
    data_fingerprint: str
    code: Mapping[str, str]
    """File -> hash, of the code that trains."""
    git: str
    num_trials: int
    trials_at_once: int
    settings: SweepConfig
    overrides: tuple[str, ...] = field(default=())
    """Differences that somebody accepted, a line each."""

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "format": FORMAT,
            "question": self.question.name,
            "text": self.question.text,
            "space": self.question.space.description(),
            "fixed": self.question.space.fixed,
            "trials_of_space": self.question.space.num_trials,
            "source": self.source,
            "base": self.base.model_dump(),
            "seed": self.seed,
            "shards_uri": redacted(self.shards_uri),
            "data_fingerprint": self.data_fingerprint,
            "code": dict(self.code),
            "git": self.git,
            "num_trials": self.num_trials,
            "trials_at_once": self.trials_at_once,
            "settings": self.settings.model_dump(exclude={"storage"}),  # it may hold a password
            "overrides": list(self.overrides),
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any], name: str) -> "Started":
        """What `plain` gave.

        Raises: IntegrityError: another version wrote it.
        """
        if plain.get("format") != FORMAT:
            raise IntegrityError(
                f"the record of sweep {name!r} has format {plain.get('format')}, this tintlab "
                f"reads {FORMAT}; continue it with the tintlab that started it, or give another "
                "--name"
            )
        space = described(plain["space"], plain["fixed"])
        space = space.model_copy(update={"num_trials": plain["trials_of_space"]})
        rest = {key: plain[key] for key in ("source", "seed", "shards_uri", "data_fingerprint")}
        rest |= {key: plain[key] for key in ("code", "git", "num_trials", "trials_at_once")}
        return cls(
            question=Question(plain["question"], plain["text"], space),
            base=ExperimentConfig.model_validate(plain["base"]),
            settings=SweepConfig.model_validate(plain["settings"]),
            overrides=tuple(plain["overrides"]),
            **rest,
        )

    def continued(self, now: "Started", name: str, accept_changes: bool) -> "Started":
        """What the sweep goes on with if `now` is asked for.

        Raises: ConflictError: another question has this name. ConfigError: something differs that
            the results so far depend on, and nobody accepted it.
        """
        if self.question.name != now.question.name:
            raise ConflictError(
                f"sweep {name!r} asks {self.question.name}: {self.question.text} "
                f"Give another --name to ask {now.question.name}"
            )
        changes = self.differences(now)
        if changes and not accept_changes:
            raise ConfigError(
                f"sweep {name!r} was started with other settings ({'; '.join(changes)}); give what "
                "it was started with, or another --name to start anew, or --accept-changes to go "
                "on, which its report will say"
            )
        _require_compatible(self.question.space, now.question.space, name)
        known = tuple(line for line in changes if line not in self.overrides)
        return replace(now, overrides=self.overrides + known)

    def differences(self, now: "Started") -> list[str]:
        """What a result may depend on and is not as it was, a line each."""
        descriptions = [_of_results(each.question.space) for each in (self, now)]
        settings = [_of_learning(each.base) for each in (self, now)]
        lines = difference(*descriptions) + difference(*settings)
        if self.data_fingerprint != now.data_fingerprint:
            lines.append(f"data set: {self.data_fingerprint} -> {now.data_fingerprint}")
        if self.seed != now.seed:
            lines.append(f"seed of the search: {self.seed} -> {now.seed}")
        code = code_difference(self.code, now.code)
        return [*lines, code] if code else lines


def _of_results(space: SearchSpace) -> dict[str, Any]:
    """A space without what only its report looks at."""
    return {key: value for key, value in space.description().items() if key != "reference"}


def _of_learning(base: ExperimentConfig) -> dict[str, Any]:
    """Settings without those of how and where it is computed."""
    return {key: value for key, value in base.flat().items() if key not in MAY_CHANGE}


def _require_compatible(before: SearchSpace, now: SearchSpace, name: str) -> None:
    """Raises: ConfigError: the record cannot hold both, whatever is accepted."""
    from optuna.distributions import check_distribution_compatibility

    for key in before.choices.keys() & now.choices.keys():
        try:
            check_distribution_compatibility(_innermost(before, key), _innermost(now, key))
        except ValueError:
            raise ConfigError(
                f"{key} is searched in another way than sweep {name!r} began with; one record "
                "cannot hold both, give another --name"
            ) from None
    if list(before.directions.items()) != list(now.directions.items()):
        raise ConfigError(f"sweep {name!r} was started with other objectives; give another --name")


def _innermost(space: SearchSpace, key: str) -> BaseDistribution:
    entry = space.choices[key]
    return entry.distribution if isinstance(entry, When) else entry
