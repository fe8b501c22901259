"""A question: a search space with the name of its file and the sentence that it answers.

It is the name of a file in `search_spaces/`, or the path of a Python file of one's own.
"""

import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError
from tintlab.sweep.space import SearchSpace


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
                raise ConfigError(f"{key} is searched by {self.name}; leave it out")
        from tintlab.sweep.checks import check  # it knows metrics, and so torch: seconds to import

        check(self.space, experiment)


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
            nearest = get_close_matches(name_or_file, names, n=1)
            hint = f"did you mean {nearest[0]}? There are" if nearest else "there are"
            raise ConfigError(
                f"no search space {name_or_file!r}; {hint} {', '.join(names)}, "
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


def named(argv: Sequence[str]) -> tuple[str, ExperimentConfig, list[str]]:
    """The space that a command line names, wherever it stands among the options; the experiment
    before anything is searched, and the keys that the question decides on. Without one, "".

    Raises: ConfigError: see `load_space`.
    """
    name = _positional(argv)
    if not name:
        return "", ExperimentConfig(), []
    space = load_space(name).space
    return name, space.base(), space.own_keys


def _positional(argv: Sequence[str]) -> str:
    switches = {f"--{name}" for name in ("json", "dry-run", "accept-changes", "help")}
    for key, value in ExperimentConfig().flat().items():
        if isinstance(value, bool):
            part, name = key.replace("_", "-").split(".")
            switches |= {f"--{part}.{name}", f"--{part}.no-{name}"}
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            return word
        if "=" not in word and word.replace("_", "-") not in switches:
            next(words, None)  # the option's value
    return ""


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
        raise ConfigError(f"{file} fails on import: {_reason(error)}") from None
    return module


def _reason(error: Exception) -> str:
    """What a file raised, on one line; of a refused SearchSpace, the field and what is wrong."""
    from pydantic import ValidationError

    from tintlab.config import first_problem

    if isinstance(error, ValidationError):
        return first_problem(error)
    return " ".join(f"{type(error).__name__}: {error}".split())
