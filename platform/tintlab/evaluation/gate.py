"""The gate: whether a candidate is proven better than the champion, rule by rule.

A pure function of two tables of figures and a policy. What proves is bits per dimension, photo by
photo on the same photos; colourfulness and PSNR only guard against a gain that was bought with
them. Sources: the likelihood as the measure of a density model, Theis et al. 2016, A note on the
evaluation of generative models; guard metrics with a margin, Kohavi et al. 2020, Trustworthy
Online Controlled Experiments, ch. 7.
"""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float64
from pydantic import Field, ValidationError

from tintlab.config import ExperimentConfig, first_problem
from tintlab.console import table
from tintlab.errors import ConfigError
from tintlab.evaluation.evaluate import PER_IMAGE_FILE, SUMMARY_FILE
from tintlab.evaluation.intervals import interval
from tintlab.evaluation.metrics import colorfulness_ratio
from tintlab.settings import Settings

FIGURES = ("bits_per_dim", "psnr_db", "colorfulness", "truth_colorfulness")
"""Columns of the per-image table that the rules read."""

PREFERENCE = "human/preference"
"""Metric of the candidate's run: share of blind comparisons that people decided for it."""

Column = Float64[np.ndarray, "N"]


class PromotionPolicy(Settings):
    """What a candidate has to show before it becomes @champion."""

    min_photos: int = Field(30, ge=2)
    """Photos of the test split, at least: the fewest that the interval is checked to hold what it
    promises of. The guards are plain means, which are mostly chance of fewer photos."""
    min_bits_gain: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """Bits per dimension by which it must be better for sure: the whole paired 95 % interval of the
    gain lies above this."""
    max_colorfulness_loss: float = Field(0.05, ge=0.0, allow_inf_nan=False)
    """How much further from 1 than the champion's its colourfulness ratio may be: 0.05 is 5 % of
    the true photos' colourfulness. Too grey and too colourful both count."""
    max_psnr_loss_db: float = Field(0.3, ge=0.0, allow_inf_nan=False)
    """How much lower than the champion's its mean PSNR may be, in dB. PSNR rewards grey, so this
    only stops what is clearly off."""
    min_human_preference: float | None = Field(None, ge=0.0, le=1.0, allow_inf_nan=False)
    """Least `human/preference` of its run; a run without it is refused. Left out: not asked for."""

    @property
    def sha256(self) -> str:
        """The same for two files that ask for the same, whatever their comments."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def load_policy(file: Path | None) -> PromotionPolicy:
    """The policy of a TOML file; what it leaves out keeps its default, and so does no file.

    Raises: ConfigError: it cannot be read, is not TOML, or has a key or a value that is refused.
    """
    if file is None:
        return PromotionPolicy()
    try:
        return PromotionPolicy.model_validate(tomllib.loads(file.read_text()))
    except OSError as error:
        raise ConfigError(f"cannot read policy {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"policy {file} is not TOML: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"policy {file}: {_problem(error)}") from None


def _problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    if problem["type"] != "extra_forbidden":
        return first_problem(error)
    known = list(PromotionPolicy.model_fields)
    key = str(problem["loc"][0])
    nearest = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


@dataclass(frozen=True)
class Measured:
    """What is known of one model on the test photos."""

    ruler: dict[str, str | int | float]
    """What it was measured on and in: models compare only if theirs are equal."""
    ids: tuple[str, ...]
    scenes: tuple[str, ...]
    """What each photo shows: photos of one scene are alike, see `intervals`."""
    figures: dict[str, Column]
    """Columns by name, in the order of `ids`; a null is not a number here."""


def read_measured(folder: Path, config: ExperimentConfig) -> Measured:
    """What the folder of an evaluation says of the model with this config.

    Bits are counted over the tokens of a grid: of other bins or another grid they are of another
    unit, so both belong to the ruler.
    """
    summary: dict[str, Any] = json.loads((folder / SUMMARY_FILE).read_text())
    # One thread: readers in a pool would outlive this call.
    rows = pq.read_table(folder / PER_IMAGE_FILE, use_threads=False)
    ruler: dict[str, str | int | float] = {
        "data": summary["fingerprint"],
        "split": summary["split"],
        "crop_px": summary["crop_px"],
        "chroma_stride": config.model.chroma_stride,
        **{f"bins.{key}": value for key, value in config.bins.model_dump().items()},
    }
    figures = {
        name: rows[name].to_numpy().astype(np.float64)
        for name in FIGURES
        if name in rows.column_names
    }
    return Measured(ruler, tuple(rows["id"].to_pylist()), tuple(rows["scene"].to_pylist()), figures)


@dataclass(frozen=True)
class Rule:
    """One rule of the policy, and how the candidate did."""

    rule: str
    needed: str
    got: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """All rules that apply."""

    rules: tuple[Rule, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may become the champion."""
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> str:
        """The rules that were not passed, as one line."""
        return "; ".join(
            f"{rule.rule}: needed {rule.needed}, got {rule.got}"
            for rule in self.rules
            if not rule.passed
        )

    def document(self) -> list[dict[str, Any]]:
        """The rules as JSON has them."""
        return [asdict(rule) for rule in self.rules]


def rules_table(rules: Sequence[dict[str, Any]]) -> str:
    """The document of a verdict, for a person."""
    rows = [[r["rule"], r["needed"], r["got"], "yes" if r["passed"] else "NO"] for r in rules]
    return table(["rule", "needed", "got", "passed"], rows)


def judge(
    candidate: Measured,
    champion: Measured | None,
    policy: PromotionPolicy,
    human_preference: float | None = None,
) -> Verdict:
    """Apply a policy; without a champion, the rules that compare are left out.

    Args: human_preference: what PREFERENCE is in the candidate's run; None: it has none.
    """
    rules = [_enough_photos(candidate, policy), _all_numbers(candidate)]
    if champion is not None:
        rules += _compared(candidate, champion, policy)
    if policy.min_human_preference is not None:
        rules.append(_preferred(human_preference, policy.min_human_preference))
    return Verdict(tuple(rules))


def _enough_photos(candidate: Measured, policy: PromotionPolicy) -> Rule:
    photos = len(candidate.ids)
    return Rule("photos", f"at least {policy.min_photos}", str(photos), photos >= policy.min_photos)


def _all_numbers(candidate: Measured) -> Rule:
    bad = bad_figures(candidate)
    return Rule("finite output", "a number for every photo", bad or "all are", not bad)


def bad_figures(measured: Measured) -> str:
    """What is missing or is no number, in words; empty if nothing is.

    An infinite PSNR is one: the photo was coloured exactly.
    """
    found = []
    for name in FIGURES:
        if name not in measured.figures:
            found.append(f"{name} is missing")
            continue
        column = measured.figures[name]
        exact = np.isposinf(column) if name == "psnr_db" else np.zeros(len(column), bool)
        bad = int((~np.isfinite(column) & ~exact).sum())
        if bad:
            found.append(f"{name} of {bad} of {len(column)} photos is not finite")
    return ", ".join(found)


def _compared(candidate: Measured, champion: Measured, policy: PromotionPolicy) -> list[Rule]:
    other = _other_ruler(candidate, champion)
    bad = bad_figures(champion)
    same = Rule(
        "same measure",
        "measured as the champion, whose figures are numbers",
        other or (f"the champion's {bad}" if bad else "it is"),
        not other and not bad,
    )
    needed = {
        "bits per dimension": f"95 % interval of the gain above {policy.min_bits_gain:g}",
        "colourfulness": f"ratio at most {policy.max_colorfulness_loss:g} further from 1",
        "PSNR": f"at most {policy.max_psnr_loss_db:g} dB lower",
    }
    if not same.passed or bad_figures(candidate) or len(candidate.ids) < 2:
        return [same, *(Rule(rule, what, "not comparable", False) for rule, what in needed.items())]
    at = {photo: index for index, photo in enumerate(champion.ids)}
    order = [at[photo] for photo in candidate.ids]
    ours = candidate.figures
    theirs = {name: column[order] for name, column in champion.figures.items()}
    findings = (
        _bits(ours, theirs, candidate.scenes, policy),
        _colours(ours, theirs, policy),
        _psnr(ours, theirs, policy),
    )
    return [
        same,
        *(
            Rule(rule, what, got, passed)
            for (rule, what), (got, passed) in zip(needed.items(), findings, strict=True)
        ),
    ]


def _other_ruler(candidate: Measured, champion: Measured) -> str:
    """How the two were measured differently; empty if they were not."""
    keys = [*dict.fromkeys([*candidate.ruler, *champion.ruler])]
    found = [
        f"{key} {_short(candidate.ruler.get(key))} instead of {_short(champion.ruler.get(key))}"
        for key in keys
        if candidate.ruler.get(key) != champion.ruler.get(key)
    ]
    if not found and set(candidate.ids) != set(champion.ids):
        found.append(f"{len(set(candidate.ids) ^ set(champion.ids))} photos are of one table only")
    return ", ".join(found)


def _short(value: object) -> str:
    return str(value)[:12]  # of a fingerprint, as git shortens its own


def _bits(
    ours: dict[str, Column],
    theirs: dict[str, Column],
    groups: Sequence[str],
    policy: PromotionPolicy,
) -> tuple[str, bool]:
    gain = interval(theirs["bits_per_dim"] - ours["bits_per_dim"], groups)
    return f"gain {gain}", bool(gain.low > policy.min_bits_gain)


def _colours(
    ours: dict[str, Column], theirs: dict[str, Column], policy: PromotionPolicy
) -> tuple[str, bool]:
    mine, before = (
        colorfulness_ratio(one["colorfulness"].tolist(), one["truth_colorfulness"].tolist())
        for one in (ours, theirs)
    )
    further = abs(1 - mine) - abs(1 - before)
    # Grey photos alone have no ratio: nothing can be said, so nothing is allowed.
    return f"{mine:.4f} against {before:.4f}", bool(further <= policy.max_colorfulness_loss)


def _psnr(
    ours: dict[str, Column], theirs: dict[str, Column], policy: PromotionPolicy
) -> tuple[str, bool]:
    mine, before = ours["psnr_db"], theirs["psnr_db"]
    exact = np.isposinf(mine) | np.isposinf(before)
    lost = int((np.isposinf(before) & ~np.isposinf(mine)).sum())
    if exact.all():
        return f"{lost} photos are no longer exact", lost == 0
    change = float((mine - before)[~exact].mean())
    left_out = f", {int(exact.sum())} exact photos left out" if exact.any() else ""
    return f"{change:+.4f} dB{left_out}", change >= -policy.max_psnr_loss_db


def _preferred(got: float | None, needed: float) -> Rule:
    said = f"{PREFERENCE} is missing" if got is None else f"{got:.4f}"
    passed = got is not None and got >= needed  # a NaN is not
    return Rule("human preference", f"at least {needed:g}", said, passed)
