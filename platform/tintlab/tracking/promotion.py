"""Promotion: a run's model becomes @champion if it is better than the one there.

Both are scored on the same photos of the test split. Better is, for now, fewer bits per dimension.
"""

from dataclasses import dataclass
from typing import Any

from tintlab.config import Workspace
from tintlab.errors import GateRefused
from tintlab.tracking.evaluations import evaluate_model
from tintlab.tracking.models import FoundModel, find_model
from tintlab.tracking.registry import champion, register, set_alias

CHAMPION = "champion"


@dataclass(frozen=True)
class Promotion:
    """The verdict, and what was done."""

    run_id: str
    verdict: str
    version: int | None
    """The registry's version of the candidate; None in a dry run of a model not yet registered."""
    champion_version: int | None
    changed: bool
    """Whether @champion moved."""
    candidate: dict[str, Any]
    """Summary of its evaluation."""
    before: dict[str, Any] | None
    """Summary of the champion's evaluation, if there was one."""


def promote(workspace: Workspace, run_id: str, shards_uri: str, dry_run: bool = False) -> Promotion:
    """Register a run's model and move @champion to it, if it beats the champion.

    A model that is the champion already stays it, without a second version.

    Raises: GateRefused: it does not beat the champion. ConfigError: no such run, or no model in it.
    """
    candidate = find_model(workspace, run_id)
    holder = champion(workspace)
    measured = evaluate_model(workspace, candidate, shards_uri)
    bits = measured.summary["bits_per_dim"]["autoregressive"]
    before = None
    if holder is not None and holder.run_id != run_id:
        held = find_model(workspace, f"@{CHAMPION}")
        before = evaluate_model(workspace, held, shards_uri).summary
        theirs = before["bits_per_dim"]["autoregressive"]
        if not bits < theirs:
            raise GateRefused(
                f"run {run_id} has {bits:.4f} bits per dimension on the test split, @champion "
                f"(version {holder.version}) has {theirs:.4f}; the champion stays"
            )
        verdict = f"{bits:.4f} bits per dimension against the champion's {theirs:.4f}"
    elif holder is not None:
        verdict = "this model is the champion already"
    else:
        verdict = "there was no champion"
    if dry_run:
        version = holder.version if holder else None
        return Promotion(run_id, verdict, None, version, False, measured.summary, before)
    version = _move(workspace, candidate, run_id)
    changed = holder is None or holder.version != version
    return Promotion(run_id, verdict, version, version, changed, measured.summary, before)


def _move(workspace: Workspace, candidate: FoundModel, run_id: str) -> int:
    registered = register(workspace, run_id, candidate.folder)
    set_alias(workspace, registered, CHAMPION)
    return registered.version
