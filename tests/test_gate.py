"""The gate: what it refuses and why, and what it lets through.

If these fail, a worse model can become the one that everybody uses, or a better one cannot.
"""

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError
from tintlab.evaluation.gate import (
    Measured,
    PromotionPolicy,
    Verdict,
    judge,
    load_policy,
    read_measured,
    rules_table,
)

ROOT = Path(__file__).parents[1]
POLICY = PromotionPolicy()
PHOTOS = 40


def measured(bits: float = 2.0, psnr: float = 25.0, colour: float = 30.0) -> Measured:
    """A model on forty photos, which differ from each other much more than models do."""
    rng = np.random.default_rng(0)
    photo = rng.normal(size=PHOTOS)
    return Measured(
        ruler={"data": "a" * 64, "split": "test", "crop_px": 64, "bins.per_channel": 32},
        ids=tuple(f"photo {i}" for i in range(PHOTOS)),
        scenes=tuple(f"scene {i}" for i in range(PHOTOS)),
        figures={
            "bits_per_dim": bits + 0.5 * photo,
            "psnr_db": psnr + 3.0 * photo,
            "colorfulness": np.full(PHOTOS, colour),
            "truth_colorfulness": np.full(PHOTOS, 40.0),
        },
    )


def noisy(one: Measured, seed: int = 1, spread: float = 0.05) -> Measured:
    """The same with a little chance in every photo's bits: no two models are equal."""
    noise = np.random.default_rng(seed).normal(0, spread, PHOTOS)
    return changed(one, "bits_per_dim", lambda bits: bits + noise - noise.mean())


def changed(
    one: Measured, name: str, change: Callable[[np.ndarray], np.ndarray | None]
) -> Measured:
    figures = dict(one.figures)
    column = change(figures[name].copy())
    if column is None:
        del figures[name]
    else:
        figures[name] = column
    return replace(one, figures=figures)


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(column: np.ndarray) -> np.ndarray:
        column[3] = value
        return column

    return change


def failed(verdict: Verdict) -> dict[str, str]:
    """Rules that were not passed, with what was got."""
    assert verdict.passed == all(rule.passed for rule in verdict.rules)
    return {rule.rule: rule.got for rule in verdict.rules if not rule.passed}


CHAMPION = measured()
BETTER = noisy(measured(bits=1.9))


def test_a_better_model_passes_every_rule() -> None:
    verdict = judge(BETTER, CHAMPION, POLICY)
    assert failed(verdict) == {}
    assert [rule.rule for rule in verdict.rules] == [
        "photos", "finite output", "same measure", "bits per dimension", "colourfulness", "PSNR",
    ]  # fmt: skip
    bits = next(rule for rule in verdict.rules if rule.rule == "bits per dimension")
    assert bits.got.startswith("gain 0.1000 [0.0")
    assert verdict.reasons == ""


def test_the_pairs_decide_and_not_the_order_of_the_photos() -> None:
    """Photos differ by far more than the models: only a paired comparison can see the gain, and
    only if each photo is paired with itself."""
    order = np.random.default_rng(3).permutation(PHOTOS)
    shuffled = replace(
        BETTER,
        ids=tuple(BETTER.ids[i] for i in order),
        scenes=tuple(BETTER.scenes[i] for i in order),
        figures={name: column[order] for name, column in BETTER.figures.items()},
    )
    assert failed(judge(shuffled, CHAMPION, POLICY)) == {}


@pytest.mark.parametrize(
    ("candidate", "rule", "got"),
    [
        (noisy(measured(bits=2.1)), "bits per dimension", "gain -0.1000 ["),
        (noisy(measured(bits=1.999)), "bits per dimension", "gain 0.0010 [-0.0"),
        (measured(), "bits per dimension", "gain 0.0000 ["),
        (noisy(measured(1.9, colour=27.0)), "colourfulness", "0.6750 against 0.7500"),
        (noisy(measured(1.9, colour=54.0)), "colourfulness", "1.3500 against 0.7500"),
        (noisy(measured(1.9, psnr=24.6)), "PSNR", "-0.4000 dB"),
    ],
    ids=["worse", "overlapping", "equal", "greyer", "too colourful", "lower PSNR"],
)
def test_what_is_not_better_is_refused_for_that_reason(
    candidate: Measured, rule: str, got: str
) -> None:
    found = failed(judge(candidate, CHAMPION, POLICY))
    assert list(found) == [rule]
    assert found[rule].startswith(got)


@pytest.mark.parametrize(
    "candidate",
    [
        noisy(measured(1.9, colour=28.1)),
        noisy(measured(1.9, colour=51.9)),
        noisy(measured(1.9, psnr=24.71)),
        changed(BETTER, "psnr_db", put(math.inf)),
    ],
    ids=["a little greyer", "as far on the other side", "a little lower", "an exact photo"],
)
def test_guards_leave_room(candidate: Measured) -> None:
    assert failed(judge(candidate, CHAMPION, POLICY)) == {}


@pytest.mark.parametrize(
    ("name", "change", "got"),
    [
        ("bits_per_dim", put(math.nan), "bits_per_dim of 1 of 40 photos is not finite"),
        ("bits_per_dim", put(math.inf), "bits_per_dim of 1 of 40 photos is not finite"),
        ("psnr_db", put(math.nan), "psnr_db of 1 of 40 photos is not finite"),
        ("psnr_db", put(-math.inf), "psnr_db of 1 of 40 photos is not finite"),
        ("colorfulness", put(math.nan), "colorfulness of 1 of 40 photos is not finite"),
        ("psnr_db", lambda _: None, "psnr_db is missing"),
        ("bits_per_dim", lambda _: None, "bits_per_dim is missing"),
    ],
)
@pytest.mark.parametrize("champion", [CHAMPION, None], ids=["champion", "first"])
def test_a_figure_that_is_missing_or_no_number_is_refused(
    name: str,
    change: Callable[[np.ndarray], np.ndarray | None],
    got: str,
    champion: Measured | None,
) -> None:
    verdict = judge(changed(BETTER, name, change), champion, POLICY)
    found = failed(verdict)
    assert found.pop("finite output") == got
    assert set(found.values()) <= {"not comparable"}
    assert bool(found) == (champion is not None)


def test_a_champion_without_figures_is_no_ground_to_promote() -> None:
    broken = changed(CHAMPION, "bits_per_dim", put(math.nan))
    found = failed(judge(BETTER, broken, POLICY))
    assert found.pop("same measure") == (
        "the champion's bits_per_dim of 1 of 40 photos is not finite"
    )
    assert set(found.values()) == {"not comparable"}


@pytest.mark.parametrize(
    ("ruler", "got"),
    [
        ({"data": "b" * 64}, "data aaaaaaaaaaaa instead of bbbbbbbbbbbb"),
        ({"crop_px": 32}, "crop_px 64 instead of 32"),
        ({"bins.per_channel": 33}, "bins.per_channel 32 instead of 33"),
    ],
)
def test_figures_of_another_ruler_are_not_compared(ruler: dict[str, str | int], got: str) -> None:
    found = failed(judge(BETTER, replace(CHAMPION, ruler=CHAMPION.ruler | ruler), POLICY))
    assert found.pop("same measure") == got
    assert list(found) == ["bits per dimension", "colourfulness", "PSNR"]


def test_other_photos_are_not_compared() -> None:
    other = replace(CHAMPION, ids=("somewhere else", *CHAMPION.ids[1:]))
    assert failed(judge(BETTER, other, POLICY))["same measure"] == "2 photos are of one table only"


@pytest.mark.parametrize(("photos", "passes"), [(29, False), (30, True)])
def test_few_photos_prove_nothing(photos: int, passes: bool) -> None:
    def first(one: Measured) -> Measured:
        figures = {name: column[:photos] for name, column in one.figures.items()}
        return replace(one, ids=one.ids[:photos], scenes=one.scenes[:photos], figures=figures)

    found = failed(judge(first(noisy(measured(1.5))), first(CHAMPION), POLICY))
    assert found == ({} if passes else {"photos": f"{photos}"})
    assert judge(first(CHAMPION), None, POLICY).passed == passes


def test_tiles_of_a_photograph_are_not_independent() -> None:
    """A gain on the tiles of half the scenes: taken one by one they would prove it."""
    gain = np.where(np.arange(PHOTOS) < 20, 0.1, -0.02)
    uneven = changed(CHAMPION, "bits_per_dim", lambda bits: bits - gain)
    assert failed(judge(uneven, CHAMPION, POLICY)) == {}
    tiled = replace(uneven, scenes=tuple(f"scene {i // 10}" for i in range(PHOTOS)))
    assert list(failed(judge(tiled, CHAMPION, POLICY))) == ["bits per dimension"]


@pytest.mark.parametrize(
    ("preference", "got"),
    [(None, "human/preference is missing"), (0.49, "0.4900"), (math.nan, "nan"), (0.5, None)],
)
def test_people_are_asked_only_if_the_policy_says_so(
    preference: float | None, got: str | None
) -> None:
    assert judge(BETTER, CHAMPION, POLICY, preference).passed
    asking = PromotionPolicy(min_human_preference=0.5)
    found = failed(judge(BETTER, CHAMPION, asking, preference))
    assert found == ({} if got is None else {"human preference": got})


def test_a_stricter_policy_asks_for_a_gain_that_matters() -> None:
    assert failed(judge(BETTER, CHAMPION, PromotionPolicy(min_bits_gain=0.05))) == {}
    strict = PromotionPolicy(min_bits_gain=0.099)
    assert list(failed(judge(BETTER, CHAMPION, strict))) == ["bits per dimension"]


def test_an_exact_photo_lost_is_not_hidden_by_the_mean() -> None:
    every = changed(CHAMPION, "psnr_db", lambda psnr: np.full_like(psnr, math.inf))
    assert failed(judge(BETTER, every, POLICY)) == {"PSNR": "40 photos are no longer exact"}
    assert failed(judge(changed(BETTER, "psnr_db", lambda p: p + math.inf), every, POLICY)) == {}


def test_the_table_shows_every_rule() -> None:
    text = rules_table(judge(noisy(measured(bits=2.1)), CHAMPION, POLICY).document())
    assert "bits per dimension" in text
    assert text.count("yes") == 5
    assert text.count("NO") == 1


# ---- the policy file


def test_the_policy_file_that_ships_says_what_the_code_does() -> None:
    shipped = ROOT / "promotion.toml"
    assert load_policy(shipped) == load_policy(None) == PromotionPolicy()
    stated = set(tomllib.loads(shipped.read_text()))
    optional = {"min_human_preference"}  # TOML has no null; it stands there as a comment
    assert stated == set(PromotionPolicy.model_fields) - optional
    assert "# min_human_preference = 0.5" in shipped.read_text()
    explained = (ROOT / "docs" / "promotion.md").read_text()
    assert all(f"`{key}`" in explained for key in PromotionPolicy.model_fields)


def test_policies_that_ask_for_the_same_have_one_hash(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("# comment\nmin_photos = 30\n")
    assert load_policy(file).sha256 == PromotionPolicy().sha256
    file.write_text("min_photos = 31\n")
    assert load_policy(file).sha256 != PromotionPolicy().sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_photo = 3", "unknown key 'min_photo'; did you mean min_photos?"),
        ("[gate]\nmin_photos = 3", "unknown key 'gate'; there are min_photos, "),
        ("min_photos = 1", "min_photos must be greater than or equal to 2, got 1"),
        ('min_photos = "many"', "min_photos must be a valid integer"),
        ("max_psnr_loss_db = nan", "max_psnr_loss_db must be"),
        ("min_photos =", "is not TOML"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="mine.toml") as refused:
        load_policy(file)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_policy_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read policy .*nowhere.toml: No such file"):
        load_policy(tmp_path / "nowhere.toml")


# ---- what an evaluation leaves


def test_a_kept_evaluation_is_read_with_its_ruler(tmp_path: Path) -> None:
    rows = {
        "id": ["a", "b"],
        "scene": ["a", "b and others"],
        "bits_per_dim": [1.0, None],
        "psnr_db": [20.0, math.inf],
        "colorfulness": [3.0, 4.0],
    }
    pq.write_table(pa.table(rows), tmp_path / "per_image.parquet")
    summary = {"fingerprint": "f", "split": "test", "images": 2, "crop_px": 16}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    config = ExperimentConfig().replaced({"evaluation.crop_px": 16, "bins.per_channel": 9})
    found = read_measured(tmp_path, config)
    assert (found.ids, found.scenes) == (("a", "b"), ("a", "b and others"))
    assert set(found.figures) == {"bits_per_dim", "psnr_db", "colorfulness"}
    ruler = {"data": "f", "split": "test", "crop_px": 16, "bins.per_channel": 9}
    assert ruler.items() <= found.ruler.items()
    got = failed(judge(found, None, PromotionPolicy(min_photos=2)))["finite output"]
    assert got == "bits_per_dim of 1 of 2 photos is not finite, truth_colorfulness is missing"
