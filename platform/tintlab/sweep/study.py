"""Optuna's side of the ledger: a database that answers in time, and draws that can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.redaction import redacted
from tintlab.sweep.holder import sqlite_file

ANSWER_S = 15.0
"""How long a database may take to answer first; drivers wait for minutes, or for ever."""

BUSY_S = 30.0
"""How long SQLite waits for another process's write; sweeps of one workspace share the file."""


def storage_at(url: str) -> BaseStorage:
    """The database at `url`, its tables made if need be.

    Raises: EnvironmentFault: it does not answer, cannot be written, or its driver is not installed.
        ConfigError: the URL is none.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: list[BaseStorage] = []
    errors: list[Exception] = []

    def connect() -> None:
        try:
            file = sqlite_file(url)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
            options = {"connect_args": {"timeout": BUSY_S}} if file else {"pool_pre_ping": True}
            # Behind Optuna's cache of finished trials: samplers read all of them at each draw.
            found.append(optuna.storages.get_storage(RDBStorage(url, engine_kwargs=options)))
        except Exception as error:  # drivers raise what they like
            errors.append(error)

    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if found:
        return found[0]
    where = f"the sweeps' database {redacted(url)}"
    if not errors:
        raise EnvironmentFault(
            f"{where} did not answer in {ANSWER_S:g} s; check --sweep.storage and that it runs"
        )
    error = errors[0]
    if isinstance(error, ImportError):
        raise EnvironmentFault(f"{where} needs a driver that is not installed: {error}") from None
    if "rfc1738" in str(error) or "Could not parse" in str(error):
        raise ConfigError(f"--sweep.storage is no database URL, got {redacted(url)}") from None
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise EnvironmentFault(
        f"{where} cannot be opened: {redacted(first)}; check --sweep.storage, that it runs, and "
        "that it can be written"
    ) from None


def without_password(url: str) -> str:
    """A database's URL that may be shown; empty stays empty."""
    return make_url(url).set(password=None).render_as_string() if url else ""


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Inside the block the database at `url` is used.

    Raises: EnvironmentFault: it stopped answering.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error  # Optuna's own says only that something went wrong
        first = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise EnvironmentFault(
            f"the sweeps' database {redacted(url)} does not answer any longer: {redacted(first)}; "
            "what it was told is kept: the same command goes on once it is there"
        ) from None


class Draw(optuna.Trial):
    """The drawing of a trial's values, the same each time with the same sampler.

    Optuna's own trial would take what is recorded already and draw the rest with numbers that were
    meant for the first values; here a process that died in between changes nothing.
    """

    def __init__(self, study: optuna.Study, trial_id: int) -> None:
        study._thread_local.cached_all_trials = None  # what samplers look at, as `ask` does it
        super().__init__(study, trial_id)
        self._recorded = set(self._cached_frozen_trial.params)
        self._cached_frozen_trial.params = {}
        self._cached_frozen_trial.distributions = {}

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        trial = self._cached_frozen_trial
        if name not in trial.params:
            if self._is_fixed_param(name, distribution):
                value = self._fixed_params[name]
            elif distribution.single():
                value = optuna.distributions._get_single_value(distribution)
            elif self._is_relative_param(name, distribution):
                value = self.relative_params[name]
            else:
                value = self.study.sampler.sample_independent(
                    self.study, self._get_latest_trial(), name, distribution
                )
            if name not in self._recorded:
                internal = distribution.to_internal_repr(value)
                self.storage.set_trial_param(self._trial_id, name, internal, distribution)
            trial.params[name] = value
            trial.distributions[name] = distribution
        return trial.params[name]
