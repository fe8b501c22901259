"""A sweep is opened before anything heavy starts: mistakes and other holders are found at once."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import optuna

from tintlab.config import ExperimentConfig, Workspace
from tintlab.console import option, say
from tintlab.data.shards import open_shards
from tintlab.data.storage import require_writable
from tintlab.errors import ConfigError, EnvironmentFault
from tintlab.redaction import HIDDEN
from tintlab.settings import SweepConfig
from tintlab.sweep.code import code_that_trains
from tintlab.sweep.holder import OwnerRecord, held_beside, sqlite_file
from tintlab.sweep.ledger import Ledger, study_of
from tintlab.sweep.question import Question, load_space, space_names
from tintlab.sweep.records import SweepRecord
from tintlab.sweep.space import CHAMPION
from tintlab.sweep.started import Started
from tintlab.sweep.study import answering, storage_at

NAME = re.compile(r"[\w][\w.-]{0,99}")

DECIDES_RESOURCES = ("training.workers", "training.min_workers", "training.gpus_per_worker")
"""The same for all trials of a sweep: Tune places them before it knows their values."""


@dataclass(frozen=True)
class SweepRequest:
    """What to run: a question under a name, on a base experiment, with a budget."""

    question: Question
    base: ExperimentConfig
    name: str
    shards_uri: str
    num_trials: int
    trials_at_once: int = 2
    seed: int = 0
    settings: SweepConfig = field(default_factory=SweepConfig)
    source: str = ""
    """The name or file that the question was loaded from."""
    accept_changes: bool = False
    """Go on although something differs from what the sweep was started with."""

    @property
    def planned(self) -> tuple[Question, ExperimentConfig, int, int, str]:
        """What a plan is made of."""
        return self.question, self.base, self.num_trials, self.trials_at_once, self.shards_uri


@dataclass(frozen=True)
class OpenSweep:
    """A sweep that this process alone runs."""

    ledger: Ledger
    owner: OwnerRecord | None
    """Where a database keeps it; a lock file needs no care."""


@contextmanager
def opened(request: SweepRequest, workspace: Workspace) -> Iterator[OpenSweep]:
    """The sweep, created or continued, held by this process inside the block.

    Raises: ConfigError: the space cannot run, or it differs from what the sweep was started with.
        ConflictError: another process runs it, or another question has its name. EnvironmentFault:
        the database does not answer, or no longer, or the workspace or shards are not there.
    """
    _check(request)
    open_shards(request.shards_uri)
    url = request.settings.storage or workspace.study_url
    if not workspace.is_local and not request.settings.storage:
        raise ConfigError(
            f"the workspace {workspace.root} cannot hold the record of a sweep; name a database "
            "with --sweep.storage"
        )
    require_writable(workspace.root)
    file = sqlite_file(url)
    with answering(url):
        if file:
            with held_beside(file, request.name):
                yield OpenSweep(_continued(_study(url, request), request, workspace), None)
            return
        study = _study(url, request)
        owner = OwnerRecord(study)
        owner.take()
        try:
            yield OpenSweep(_continued(study, request, workspace), owner)
        finally:
            owner.release()


@runtime_checkable
class SweepCommand(Protocol):
    """The options of `tintlab sweep`, as pipelines/sweep.py documents them."""

    @property
    def space(self) -> str: ...
    @property
    def resume(self) -> str | None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def experiment(self) -> ExperimentConfig: ...
    @property
    def place(self) -> Workspace: ...
    @property
    def shards_uri(self) -> str: ...
    @property
    def num_trials(self) -> int | None: ...
    @property
    def trials_at_once(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def sweep(self) -> SweepConfig: ...
    @property
    def accept_changes(self) -> bool: ...


def request_of(command: SweepCommand) -> SweepRequest:
    """What a command line asks for.

    Raises: ConfigError: the space does not exist, or could not run.
    """
    question = _question(command)
    question.check(command.experiment)
    return SweepRequest(
        question=question,
        base=command.experiment,
        name=command.resume or command.name or question.name,
        shards_uri=command.shards_uri,
        num_trials=question.space.trials(command.num_trials),
        trials_at_once=command.trials_at_once,
        seed=command.seed,
        settings=command.sweep,
        source=command.space,
        accept_changes=command.accept_changes,
    )


def resumed(argv: Sequence[str]) -> dict[str, Any]:
    """Options not given with `--resume NAME`: what the sweep of that name was started with.

    Raises: ConfigError: there is no sweep of that name; names those that there are.
    """
    workspace = Workspace.at(option(argv, "--workspace"))
    storage = option(argv, "--sweep.storage") or ""
    started = _existing(workspace, option(argv, "--resume") or "", storage).started
    return {
        "space": started.source,
        "experiment": started.base,
        "shards": option(argv, "--shards") or _where_now(started.shards_uri, workspace),
        "num_trials": started.num_trials,
        "trials_at_once": started.trials_at_once,
        "seed": started.seed,
        "sweep": started.settings.model_copy(update={"storage": storage}),
    }


def _where_now(shards_uri: str, workspace: Workspace) -> str:
    """The shards of a sweep, which may have moved with their workspace; which photos they hold is
    compared before it goes on.

    Raises: ConfigError: their address held a secret, which was not written down.
    """
    if HIDDEN in shards_uri:
        raise ConfigError(
            f"the sweep was started with --shards {shards_uri}, whose secret was not written down; "
            "give --shards once more"
        )
    try:
        open_shards(shards_uri)
    except EnvironmentFault:
        return workspace.shards
    return shards_uri


def _question(command: SweepCommand) -> Question:
    """As its file asks it now, so that a change is seen; without the file as it was asked."""
    if command.resume and not command.space:
        return _existing(command.place, command.resume, command.sweep.storage).started.question
    try:
        return load_space(command.space)
    except ConfigError:
        file = command.space.endswith(".py")
        there = Path(command.space).exists() if file else command.space in space_names()
        if there or not command.resume:
            raise
    return _existing(command.place, command.resume, command.sweep.storage).started.question


def stored_record(workspace: Workspace, name: str, storage: str = "") -> SweepRecord:
    """The record of the sweep `name`, whoever runs it.

    Raises: ConfigError: there is no sweep of that name; names those that there are.
    """
    return _existing(workspace, name, storage).record()


def _existing(workspace: Workspace, name: str, storage: str) -> Ledger:
    url = storage or workspace.study_url
    file = sqlite_file(url)
    if file and not file.exists():
        raise ConfigError(f"no sweep {name!r}; no sweep was started in {workspace.root} yet")
    return Ledger.existing(storage_at(url), name)


def _study(url: str, request: SweepRequest) -> optuna.Study:
    return study_of(storage_at(url), request.name, request.question.space)


def _continued(study: optuna.Study, request: SweepRequest, workspace: Workspace) -> Ledger:
    from tintlab.tracking.provenance import revision  # seconds of imports

    source = request.source
    now = Started(
        question=_with_start(study, request.question, workspace),
        source=_absolute(source) if source.endswith(".py") else source,
        base=request.base,
        seed=request.seed,
        shards_uri=_absolute(request.shards_uri),
        data_fingerprint=open_shards(request.shards_uri).manifest.fingerprint,
        code=code_that_trains(),
        git=revision(),
        num_trials=request.num_trials,
        trials_at_once=request.trials_at_once,
        settings=request.settings,
    )
    return Ledger.opened(study, now, request.accept_changes)


def _with_start(study: optuna.Study, question: Question, workspace: Workspace) -> Question:
    """The question with values where its starting points say "champion": those of the model that
    was @champion when the sweep started."""
    space = question.space
    if CHAMPION not in space.start:
        return question
    if before := Ledger.started_with(study):
        space = space.model_copy(update={"start": before.question.space.start})
    else:
        from tintlab.sweep.start import champion_values, with_champion

        space, notices = with_champion(space, champion_values(workspace))
        for line in notices:
            say(line)
    return replace(question, space=space)


def _check(request: SweepRequest) -> None:
    """Raises: ConfigError: it could not run, whatever the cluster has."""
    if not NAME.fullmatch(request.name):
        raise ConfigError(
            f"a sweep's name is at most 100 letters, digits and _.-, got {request.name!r}; "
            "give another --name"
        )
    if request.num_trials < 1 or request.trials_at_once < 1:
        got = f"num_trials={request.num_trials}, trials_at_once={request.trials_at_once}"
        raise ConfigError(f"a sweep needs at least one trial, and one at once, got {got}")
    for key in DECIDES_RESOURCES:
        if key in request.question.space.asked_keys:
            raise ConfigError(f"{key} cannot be searched: all trials take the same resources")


def _absolute(path: str) -> str:
    return path if "://" in path or not path else str(Path(path).expanduser().absolute())
