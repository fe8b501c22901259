"""Moving @champion: under a lock, written down before and after, and finished if it was cut short.

An alias is moved in steps that a kill may separate, so an entry of the audit log says first what is
about to be done. @champion itself moves in one of them, in one write of the store. The next command
that may move it finds the entry without its end: where @champion has moved, what is missing is
done; where it has not, what was done is undone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from mlflow.exceptions import MlflowException

from tintlab.config import Workspace
from tintlab.errors import ConflictError
from tintlab.tracking import audit
from tintlab.tracking.audit import Entry
from tintlab.tracking.locks import owned
from tintlab.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    MODEL,
    PREVIOUS,
    Version,
    by_alias,
    champion,
    download,
    numbered,
    remove_alias,
    set_alias,
)
from tintlab.tracking.store import NOT_THERE, asking

REPLACED = "tintlab.replaced"
"""Tag of a version that became @champion: the version that was it before. A rollback follows it."""

PATIENCE_S = 60.0
"""How long another command that moves aliases is waited for; it takes about a second."""

OnStep = Callable[[str], None]
"""Told what has just been done."""


@contextmanager
def moving(workspace: Workspace) -> Iterator[Entry | None]:
    """Hold the registry's lock; gives the interrupted move that was finished first, if any.

    Raises: ConflictError: another process holds it and does not end.
    """
    with owned(
        audit.registry_folder(workspace) / "lock",
        "@champion is being moved",
        PATIENCE_S,
        "wait for it to end, or stop it; then run the same command again",
    ):
        yield _settled(workspace)


def require_champion(holder: Version | None, expected: int | None) -> None:
    """Refuse to go on if @champion is not the version that was expected.

    Args: expected: 0 for no champion at all; None: anything will do.
    Raises: ConflictError: it is another one.
    """
    now = holder.version if holder else 0
    if expected is not None and now != expected:
        is_now = f"version {now}" if now else "not set"
        raise ConflictError(
            f"@champion is {is_now}, expected {f'version {expected}' if expected else 'none'}: "
            "somebody else promoted or rolled back; look at tintlab models and decide again"
        )


def require_champion_was(finished: Entry, expected: int | None) -> None:
    """Refuse to take an interrupted rollback for the one that is asked for now, if it is not.

    Raises: ConflictError: it left another version than the expected one.
    """
    if expected not in (None, finished.champion):
        raise ConflictError(
            f"an interrupted rollback from version {finished.champion} to {finished.version} was "
            f"finished, and version {expected} was expected; look at tintlab models, then decide"
        )


def move_to(workspace: Workspace, entry: Entry, on_step: OnStep) -> Entry:
    """Do what an entry says, with @champion last of what a user could notice.

    The caller holds the lock. Raises: ConflictError: somebody else moves aliases as well.
    """
    entry = audit.signed(entry)
    audit.write(workspace, entry)
    on_step("intent written")
    if entry.kind == "promotion":
        _set_replaced(workspace, entry)
        _point(workspace, PREVIOUS, entry.previous_after)
        on_step("@previous set")
    set_alias(workspace, numbered(workspace, entry.version, entry.model), CHAMPION)
    on_step("@champion set")
    return _end(workspace, entry, on_step)


def refuse(workspace: Workspace, entry: Entry) -> Entry:
    """Write down that a candidate was refused; the caller holds the lock."""
    entry = audit.signed(entry)
    audit.write(workspace, entry)
    return _written_down(workspace, entry)


def rollback(
    workspace: Workspace,
    expected: int | None = None,
    reason: str = "",
    on_step: OnStep = lambda step: None,
) -> Entry:
    """Point @champion at @previous again, and @previous at the champion before that.

    A rollback that was interrupted after @champion had moved is finished, and is then the result.

    Raises: ConflictError: there is nothing to go back to, or @champion is not the expected version.
        IntegrityError: the files of the version to go back to were changed.
    """
    with moving(workspace) as finished:
        if finished is not None and (finished.kind, finished.state) == ("rollback", "done"):
            require_champion_was(finished, expected)
            return finished
        holder = champion(workspace)
        require_champion(holder, expected)
        target, leaving = going_back(workspace, holder)
        download(workspace, target)  # whole and unchanged, or nothing is moved
        on_step("verified")
        before = _replaced_by(workspace, target)
        entry = Entry(
            kind="rollback",
            model=target.name,
            run_id=target.run_id,
            version=target.version,
            champion=leaving.version,
            previous=target.version,
            previous_after=None if before == leaving.version else before,
            model_sha256=target.model_sha256,
            reason=reason,
        )
        return move_to(workspace, entry, on_step)


def going_back(workspace: Workspace, holder: Version | None) -> tuple[Version, Version]:
    """The version that a rollback goes back to, and the one it leaves.

    Raises: ConflictError: there is none.
    """
    if holder is None:
        raise ConflictError("nothing to roll back: no version is @champion; see tintlab models")
    target = by_alias(workspace, PREVIOUS, holder.name)
    if target is None or target.version == holder.version:
        raise ConflictError(
            f"nothing to roll back to: there is no @previous before version {holder.version}; "
            "see tintlab models"
        )
    return target, holder


def _settled(workspace: Workspace) -> Entry | None:
    """End the move that was interrupted, if one was."""
    last = None
    for entry in audit.read(workspace):
        if entry.state != "intended":
            continue
        if entry.kind == "refusal":  # it moved nothing
            _written_down(workspace, entry)
            continue
        now = champion(workspace, entry.model)
        if now is not None and now.version == entry.version:
            note = "interrupted, then finished by the next command"
            last = _end(workspace, replace(entry, note=note))
            continue
        if entry.kind == "promotion" and (now.version if now else None) == entry.champion:
            _point(workspace, PREVIOUS, entry.previous, entry.model)
        last = replace(entry, state="abandoned", note="interrupted before @champion moved")
        _tag(workspace, last)
        audit.write(workspace, last)
    return last


def _written_down(workspace: Workspace, entry: Entry, on_step: OnStep = lambda step: None) -> Entry:
    """The entry, ended; the tag first, so that an entry without its tag is found again."""
    entry = replace(entry, state="done")
    _tag(workspace, entry)
    on_step("tagged")
    audit.write(workspace, entry)
    on_step("written down")
    return entry


def _end(workspace: Workspace, entry: Entry, on_step: OnStep = lambda step: None) -> Entry:
    """What follows once @champion has moved; safe to repeat."""
    if entry.kind == "rollback":
        _point(workspace, PREVIOUS, entry.previous_after, entry.model)
        on_step("@previous set")
    challenger = by_alias(workspace, CHALLENGER, entry.model)
    if challenger is not None and challenger.version == entry.version:
        remove_alias(workspace, CHALLENGER, entry.model)
        on_step("@challenger removed")
    return _written_down(workspace, entry, on_step)


def _point(workspace: Workspace, alias: str, version: int | None, name: str = MODEL) -> None:
    if version is None:
        remove_alias(workspace, alias, name)
    else:
        set_alias(workspace, numbered(workspace, version, name), alias)


def _tag(workspace: Workspace, entry: Entry) -> None:
    with asking(workspace, f"{entry.model} has no version {entry.version}") as client:
        audit.tag(client, entry)


def _set_replaced(workspace: Workspace, entry: Entry) -> None:
    with asking(workspace, f"{entry.model} has no version {entry.version}") as client:
        replaced = str(entry.champion or "")
        client.set_model_version_tag(entry.model, str(entry.version), REPLACED, replaced)


def _replaced_by(workspace: Workspace, version: Version) -> int | None:
    """The version that was @champion before this one became it, if there was and still is one."""
    with asking(workspace, f"{version.name} has no version {version.version}") as client:
        tags = client.get_model_version(version.name, str(version.version)).tags
        found = tags.get(REPLACED)
        if not found:
            return None
        try:
            return int(client.get_model_version(version.name, found).version)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            return None  # it was deleted
