"""Promotion: a run's model becomes @champion, if it is proven better than the one there.

    evaluate   candidate and champion, on the same photos of the test split; kept, so done once
    judge      by the policy (`evaluation/gate.py`)
    register   the files first, the version last; the card beside them
    move       under the registry's lock (`moves.py`), if @champion still is what was compared with

A candidate that is refused is registered as well, as @challenger: people can look at it, or compare
it with the champion, without knowing how it was made. A kill at any step leaves @champion on a
whole version, and the same command again finishes.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from tintlab.config import Workspace
from tintlab.errors import (
    ConfigError,
    ConflictError,
    EnvironmentFault,
    GateRefused,
    IntegrityError,
    NotFinite,
    refuse_secrets,
)
from tintlab.evaluation.gate import (
    PREFERENCE,
    Measured,
    PromotionPolicy,
    Rule,
    Verdict,
    judge,
    read_measured,
    rules_table,
)
from tintlab.evaluation.model_card import Origin, model_card
from tintlab.model.artifact import WEIGHTS, load_config
from tintlab.settings import EvaluationConfig
from tintlab.tracking.audit import Entry
from tintlab.tracking.evaluations import KeptEvaluation, evaluate_model
from tintlab.tracking.lineage import lineage
from tintlab.tracking.models import FoundModel, find_model
from tintlab.tracking.moves import OnStep, move_to, moving, refuse, require_champion
from tintlab.tracking.reading import run_metrics
from tintlab.tracking.registry import (
    CHALLENGER,
    PREVIOUS,
    Version,
    by_alias,
    champion,
    model_sha256,
    register,
    set_alias,
)
from tintlab.tracking.store import StoreAway

AGAIN = 5
"""Times that a candidate is judged anew because @champion moved meanwhile."""


@dataclass(frozen=True)
class Promotion:
    """The verdict, and what was done."""

    run_id: str
    verdict: str
    """In words."""
    rules: list[dict[str, Any]]
    """Every rule that applied: what was needed, what was got, whether it passed."""
    version: int | None
    """The registry's version of the candidate; None in a dry run of a model not yet registered."""
    champion_version: int | None
    """What @champion points at now."""
    changed: bool
    """Whether @champion moved."""
    is_champion: bool
    """Whether the candidate is the champion already."""
    forced: bool
    """Whether it moved although the gate refused."""
    policy_sha256: str
    data: str
    """Fingerprint of the photos."""
    candidate: dict[str, Any]
    """Summary of its evaluation."""
    before: dict[str, Any] | None
    """Summary of the champion's evaluation, if there was one."""


@dataclass(frozen=True)
class _How:
    """How models are measured."""

    dry_run: bool
    """Their runs are told nothing."""
    workers: int
    show: OnStep


@dataclass(frozen=True)
class _Judged:
    """A candidate beside the champion of that moment."""

    candidate: FoundModel
    kept: KeptEvaluation
    holder: Version | None
    before: KeptEvaluation | None
    verdict: Verdict

    @property
    def run_id(self) -> str:
        """The candidate's run."""
        return self.candidate.run_id or ""

    @property
    def is_champion(self) -> bool:
        """Whether there is nothing to decide."""
        return self.holder is not None and (
            self.holder.model_sha256 == model_sha256(self.candidate.folder)
        )


def promote(
    workspace: Workspace,
    model: str,
    shards_uri: str,
    dry_run: bool = False,
    policy: PromotionPolicy | None = None,
    expected: int | None = None,
    forced_because: str = "",
    on_step: OnStep = lambda step: None,
    workers: int = 1,
    show: OnStep = lambda line: None,
) -> Promotion:
    """Register a run's model and move @champion to it, if the policy's rules are passed.

    A model that is the champion already stays it, without a second version.

    Args: model: a run's id, or a version's number or alias, such as @challenger.
        dry_run: register, move and log nothing; what is measured is kept in the workspace.
        expected: the version that @champion has to be, 0 for none.
        forced_because: promote whatever the gate says, and write down why; empty: do not.
        workers, show: see `evaluations.evaluate_model`.
    Raises: GateRefused: a rule is not passed; has the verdict. ConflictError: @champion is not the
        expected version. ConfigError: no such run, or no model in it.
    """
    policy = policy or PromotionPolicy()
    refuse_secrets({"--reason": forced_because})
    champion(workspace)  # where nothing was ever tracked this raises, and leaves nothing behind
    if not dry_run:
        with moving(workspace):
            pass  # whatever was interrupted is finished or undone, before anything is compared
    require_champion(champion(workspace), expected)
    candidate = find_model(workspace, model, offline_ok=False)
    if candidate.run_id is None:
        raise ConfigError(
            f"{model} is a folder, of which nobody knows how it was made; promote the id of a run"
        )
    how = _How(dry_run, workers, show)
    for _ in range(AGAIN):
        judged = _judge(workspace, candidate, shards_uri, policy, how, on_step)
        if dry_run or judged.is_champion:
            return _unchanged(judged, policy, forced_because)
        card = _card(workspace, judged, candidate.run_id)
        version = register(
            workspace, candidate.run_id, candidate.folder, card=card, on_step=on_step
        )
        on_step("registered")
        with moving(workspace):
            now = champion(workspace)
            require_champion(now, expected)
            if _number(now) == _number(judged.holder):
                return _decide(workspace, judged, version, policy, forced_because, on_step)
    raise ConflictError(
        f"@champion moved {AGAIN} times while {candidate.label} was compared with it; "
        "run the same command again when the others have ended"
    )


def _judge(
    workspace: Workspace,
    candidate: FoundModel,
    shards_uri: str,
    policy: PromotionPolicy,
    how: _How,
    on_step: OnStep,
) -> _Judged:
    holder, held, before, theirs, fault = champion(workspace), None, None, None, ""
    settings = load_config(candidate.folder).evaluation
    try:
        if holder is not None and holder.model_sha256 != model_sha256(candidate.folder):
            held = find_model(workspace, str(holder.version), offline_ok=False)
            # By its settings, both: what two protocols give does not compare.
            its = load_config(held.folder).evaluation
            before, theirs = _measured(workspace, held, shards_uri, its, how)
            settings = its
            on_step("champion evaluated")
    except StoreAway:
        raise
    except (ConfigError, EnvironmentFault, IntegrityError) as error:
        fault = str(error)  # it must not keep every other model out
    try:
        kept, ours = _measured(workspace, candidate, shards_uri, settings, how)
    except NotFinite as error:  # there is nothing to compare, to register or to force
        rules = Verdict((Rule("finite output", "a number for every photo", str(error), False),))
        told = {"run_id": candidate.run_id, "version": None, "champion_version": _number(holder)}
        raise GateRefused(
            f"run {candidate.run_id} is refused: {rules.reasons}",
            {**told, "rules": rules.document(), "changed": False},
            rules_table(rules.document()),
        ) from None
    on_step("candidate evaluated")
    preference = None
    if policy.min_human_preference is not None and candidate.run_id:
        preference = run_metrics(workspace, candidate.run_id).get(PREFERENCE)
    verdict = judge(ours, theirs, policy, preference)
    if fault:
        failed = Rule("champion measured", "its figures on the same photos", fault, False)
        verdict = Verdict((*verdict.rules, failed))
    return _Judged(candidate, kept, holder, before, verdict)


def _measured(
    workspace: Workspace,
    found: FoundModel,
    shards_uri: str,
    settings: EvaluationConfig,
    how: _How,
) -> tuple[KeptEvaluation, Measured]:
    if how.dry_run:
        found = replace(found, run_id=None)  # measured, but not logged to its run
    kept = evaluate_model(
        workspace, found, shards_uri, settings=settings, workers=how.workers, show=how.show
    )
    return kept, read_measured(kept.folder, load_config(found.folder))


def _decide(
    workspace: Workspace,
    judged: _Judged,
    version: Version,
    policy: PromotionPolicy,
    forced_because: str,
    on_step: OnStep,
) -> Promotion:
    """Promote or refuse, now that nobody else can; the caller holds the lock."""
    verdict, holder = judged.verdict, judged.holder
    previous = _number(by_alias(workspace, PREVIOUS))
    entry = Entry(
        kind="promotion",
        model=version.name,
        run_id=judged.run_id,
        version=version.version,
        champion=_number(holder),
        previous=previous,
        previous_after=_number(holder) or previous,
        model_sha256=version.model_sha256,
        data=judged.kept.summary["fingerprint"],
        policy_sha256=policy.sha256,
        rules=verdict.document(),
        forced=not verdict.passed and bool(forced_because),
        reason=forced_because,
    )
    set_alias(workspace, version, CHALLENGER)
    on_step("@challenger set")
    if not verdict.passed and not forced_because:
        refuse(workspace, replace(entry, kind="refusal", previous_after=previous))
        on_step("refusal written down")
        raise refused(_told(judged, policy, version.version, False, ""), judged)
    move_to(workspace, entry, on_step)
    return _told(judged, policy, version.version, True, forced_because)


def _unchanged(judged: _Judged, policy: PromotionPolicy, forced_because: str) -> Promotion:
    """What there is to say where nothing is moved."""
    version = _number(judged.holder) if judged.is_champion else None
    told = _told(judged, policy, version, False, forced_because)
    if not (judged.is_champion or judged.verdict.passed or forced_because):
        raise refused(told, judged)
    return told


def refused(promotion: Promotion, judged: _Judged) -> GateRefused:
    """The error of a candidate that does not become the champion, with the whole verdict."""
    stays = promotion.champion_version
    end = f"the champion stays version {stays}" if stays else "there is no champion"
    message = f"run {promotion.run_id} is refused: {judged.verdict.reasons}; {end}"
    return GateRefused(message, asdict(promotion), rules_table(promotion.rules))


def _told(
    judged: _Judged,
    policy: PromotionPolicy,
    version: int | None,
    changed: bool,
    forced_because: str,
) -> Promotion:
    return Promotion(
        run_id=judged.run_id,
        verdict=_in_words(judged, forced_because),
        rules=judged.verdict.document(),
        version=version,
        champion_version=version if changed else _number(judged.holder),
        changed=changed,
        is_champion=judged.is_champion,
        forced=not judged.verdict.passed and bool(forced_because) and not judged.is_champion,
        policy_sha256=policy.sha256,
        data=judged.kept.summary["fingerprint"],
        candidate=judged.kept.summary,
        before=judged.before.summary if judged.before else None,
    )


def _in_words(judged: _Judged, forced_because: str) -> str:
    if judged.is_champion:
        return "this model is the champion already"
    if not judged.verdict.passed:
        said = f"refused: {judged.verdict.reasons}"
        return f"forced ({forced_because}) although {said}" if forced_because else said
    bits = judged.kept.summary["bits_per_dim"]["autoregressive"]
    if judged.before is None:
        return f"there was no champion; {bits:.4f} bits per dimension"
    theirs = judged.before.summary["bits_per_dim"]["autoregressive"]
    return f"{bits:.4f} bits per dimension against the champion's {theirs:.4f}"


def _card(workspace: Workspace, judged: _Judged, run_id: str) -> str:
    folder = judged.candidate.folder
    known = lineage(workspace, run_id)
    return model_card(
        model_sha256(folder),
        (folder / WEIGHTS).stat().st_size,
        load_config(folder),
        Origin(known.run_id, known.sweep, known.git_revision, known.data, known.photos),
        judged.kept.folder,
    )


def _number(version: Version | None) -> int | None:
    return version.version if version else None
