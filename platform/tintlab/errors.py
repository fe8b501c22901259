"""Every error a user can cause, each with the exit code the command line ends with.

    TintlabError                 1    unexpected; never raised itself
    ├── ConfigError              2    usage or configuration
    ├── EnvironmentFault         3    no cluster, no GPU, no disk, no tracker, no such path
    ├── PartialFailure           4    finished, but some items failed
    ├── ConflictError            5    a lock is held, the champion changed, other parameters
    ├── GateRefused              6    the candidate is not good enough
    ├── IntegrityError           7    a hash does not match, a format version is not ours
    │   └── NotFinite            7    a model's output is no number
    └── BudgetReached            8    the budget ended the work

A message is one line: what is wrong, what was got, what to do. It may be logged by anyone who gets
hold of the error, so it never has secrets in it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tintlab.redaction import holds_secret, redacted


class TintlabError(Exception):
    """A user's mistake or their machine's; printed as one line, never as a traceback."""

    exit_code = 1

    def __init__(
        self, message: str = "", data: Mapping[str, Any] | None = None, text: str = ""
    ) -> None:
        """Args: data, text: what was found before it ended, for a program and for a person; a
        command prints it as it prints a result."""
        super().__init__(redacted(message))
        self.data = dict(data or {})
        self.text = text


class ConfigError(TintlabError):
    """A setting, argument or search space that cannot be used."""

    exit_code = 2


class EnvironmentFault(TintlabError):
    """Something outside tintlab is missing: a path, a device, a cluster, disk space."""

    exit_code = 3


class PartialFailure(TintlabError):
    """The work is finished, but some of its items failed."""

    exit_code = 4


class ConflictError(TintlabError):
    """Somebody else holds it, or it already exists with other parameters."""

    exit_code = 5


class GateRefused(TintlabError):
    """The candidate did not pass the promotion gate."""

    exit_code = 6


class IntegrityError(TintlabError):
    """A file is not what its manifest says, or is of a version this code does not read."""

    exit_code = 7


class NotFinite(IntegrityError):
    """A model gives what is no number: its weights are damaged, or its training diverged."""


class BudgetReached(TintlabError):
    """The budget ended the work before it was complete."""

    exit_code = 8


def refuse_secrets(named: Mapping[str, object]) -> None:
    """Refuse what will be logged, under these names, if it holds a secret.

    Raises: ConfigError: it does; names which.
    """
    for name, value in named.items():
        if holds_secret(f"{value}"):
            raise ConfigError(
                f"{name} holds a secret and would be logged: {value}; give it without"
            )


@contextmanager
def without_secrets() -> Iterator[None]:
    """Let no secret out of the block in a library's exception: whoever catches it may log it."""
    try:
        yield
    except Exception as error:
        if holds_secret(str(error)):
            raise TintlabError(f"{type(error).__name__}: {error}") from None
        told = error.__cause__ or error.__context__
        seen: set[int] = set()  # causes may lead back to where they started
        while told and id(told) not in seen:
            if holds_secret(str(told)):
                raise error from None
            seen.add(id(told))
            told = told.__cause__ or told.__context__
        raise
