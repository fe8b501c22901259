"""The words of a search space: what a trial is drawn from, tried first, and described by."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tintlab.config import ExperimentConfig, Workspace
from tintlab.errors import ConfigError
from tintlab.sweep.checks import check
from tintlab.sweep.difference import difference
from tintlab.sweep.question import load_space, space_names
from tintlab.sweep.space import SearchSpace, When, described
from tintlab.sweep.start import champion_values, with_champion

LR = FloatDistribution(1e-3, 1e-2, log=True)


@pytest.mark.parametrize("name", space_names())
def test_every_space_asks_a_question_and_samples_to_configs(name: str) -> None:
    question = load_space(name)
    assert question.text.endswith("?")
    base = question.space.base()
    check(question.space, base)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        values = question.space.suggest(study.ask(), base)
        drawn = question.space.experiment(base, values).flat()
        assert {key for key in drawn if drawn[key] != base.flat()[key]} <= set(
            question.space.asked_keys
        )


def test_a_conditional_key_exists_only_under_its_condition() -> None:
    space = load_space("lr_cycles").space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    kinds = set()
    for _ in range(40):
        values = space.suggest(study.ask(), space.base())
        kinds.add(values["schedule.kind"])
        assert ("schedule.cycle_steps" in values) == (values["schedule.kind"] != "cosine")
        assert ("schedule.decay_per_step" in values) == (values["schedule.kind"] == "exp_range")
    assert len(kinds) == 5


def test_an_exhaustive_space_tries_everything_once_whole_rounds_first() -> None:
    space = SearchSpace(
        fixed={"model.depth": 2},
        variants={"plain": {}, "deep": {"model.depth": 3, "model.dropout": 0.5}},
        search={
            "schedule.kind": CategoricalDistribution(("cosine", "triangular")),
            "training.seed": IntDistribution(0, 2, step=2),
        },
        exhaustive=True,
    )
    base = space.base()
    check(space, base)
    points = space.first_points()
    assert len({tuple(point.items()) for point in points}) == len(points) == space.trials() == 8
    assert [point["training.seed"] for point in points] == [0] * 4 + [2] * 4
    built = [space.experiment(base, point) for point in points]
    assert [config.model.depth for config in built[:2]] == [2, 3]
    assert [config.model.dropout for config in built[:2]] == [0.0, 0.5]
    assert space.trials(3) == 3
    with pytest.raises(ConfigError, match="exhaustive and has 8 combinations, got num_trials=9"):
        space.trials(9)
    with pytest.raises(ConfigError, match="no num_trials; give one"):
        SearchSpace(search={"schedule.peak_lr": LR}).trials()


def test_a_condition_sees_what_the_variant_sets() -> None:
    kinds = {"plain": {}, "cycles": {"schedule.kind": "triangular"}}
    cycle = When("schedule.kind", ("triangular",), IntDistribution(50, 60))
    space = SearchSpace(variants=kinds, search={"schedule.cycle_steps": cycle}, num_trials=4)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.suggest(study.ask(), space.base()) for _ in range(20)]
    assert {values["variant"] for values in drawn} == set(kinds)
    for values in drawn:
        assert ("schedule.cycle_steps" in values) == (values["variant"] == "cycles")


def test_a_nested_condition_holds_only_where_all_above_it_do() -> None:
    space = SearchSpace(
        search={
            "schedule.kind": CategoricalDistribution(("cosine", "triangular")),
            "schedule.cycle_steps": When(
                "schedule.kind", ("triangular",), CategoricalDistribution((50, 100))
            ),
            "training.eval_at_cycle_ends": When(
                "schedule.cycle_steps", (100,), CategoricalDistribution((False, True))
            ),
        },
        exhaustive=True,
    )
    check(space, space.base())
    kind, cycle, ends = space.search
    # 100 is the config's own cycle_steps as well: it counts only where it was drawn.
    assert space.first_points() == [
        {kind: "cosine"},
        {kind: "triangular", cycle: 50},
        {kind: "triangular", cycle: 100, ends: False},
        {kind: "triangular", cycle: 100, ends: True},
    ]
    assert space.trials() == 4


def test_a_condition_may_be_on_the_variant_or_on_what_is_fixed() -> None:
    space = SearchSpace(
        fixed={"schedule.kind": "exp_range"},
        variants={"shallow": {"model.depth": 2}, "deep": {"model.depth": 6}},
        search={
            "model.dropout": When("variant", ("deep",), CategoricalDistribution((0.0, 0.1))),
            "schedule.decay_per_step": When(
                "schedule.kind", ("exp_range",), FloatDistribution(0.98, 0.99, step=0.005)
            ),
            "schedule.rise_share": When(
                "schedule.kind", ("one_cycle",), CategoricalDistribution((0.2, 0.3))
            ),
        },
        exhaustive=True,
    )
    check(space, space.base())
    points = space.first_points()
    assert len(points) == space.trials() == (1 + 2) * 3
    assert [p["schedule.decay_per_step"] for p in points] == [0.98] * 3 + [0.985] * 3 + [0.99] * 3
    assert all(("model.dropout" in p) == (p["variant"] == "deep") for p in points)
    assert not any("schedule.rise_share" in p for p in points)


def test_a_condition_is_asked_of_half_a_configuration_that_is_not_valid_by_itself() -> None:
    space = SearchSpace(
        search={
            "schedule.base_lr": FloatDistribution(5e-3, 6e-3),  # above the config's own peak_lr
            "schedule.cycle_steps": When("model.depth", (4,), IntDistribution(50, 60)),
            "schedule.peak_lr": FloatDistribution(7e-3, 9e-3),
        },
        num_trials=2,
    )
    check(space, space.base())


def test_starting_points_of_an_exhaustive_space_only_change_the_order() -> None:
    keys = {
        "model.depth": IntDistribution(1, 3),
        "schedule.kind": CategoricalDistribution(("constant", "cosine")),
    }
    start = ({"schedule.kind": "cosine", "model.depth": 3}, {"schedule.kind": "cosine"})
    space = SearchSpace(search=keys, start=start, exhaustive=True)
    check(space, space.base())
    points = space.first_points()
    assert points[0] == start[0]
    assert [point["schedule.kind"] for point in points] == ["cosine"] * 3 + ["constant"] * 3
    assert len(points) == space.trials() == 6


SEARCHED = SearchSpace(
    variants={"narrow": {}, "wide": {"bins.per_channel": 65}},
    search={
        "schedule.kind": CategoricalDistribution(("cosine", "triangular")),
        "schedule.peak_lr": FloatDistribution(1e-3, 1e-2, log=True),
        "schedule.cycle_steps": When(
            "schedule.kind", ("triangular",), IntDistribution(50, 200, step=50)
        ),
    },
    start=({"schedule.kind": "cosine"}, "champion"),
    num_trials=4,
)


def champion(**changed: Any) -> dict[str, Any]:
    return {**ExperimentConfig().flat(), **changed}


@pytest.mark.parametrize(
    ("values", "point", "notice"),
    [
        (
            {"schedule.kind": "triangular", "schedule.cycle_steps": 150, "bins.per_channel": 65},
            {
                "variant": "wide",
                "schedule.kind": "triangular",
                "schedule.peak_lr": 2e-3,
                "schedule.cycle_steps": 150,
            },
            None,
        ),
        (  # a key that does not apply is not the champion's either
            {"schedule.kind": "cosine"},
            {"variant": "narrow", "schedule.kind": "cosine", "schedule.peak_lr": 2e-3},
            None,
        ),
        (
            {"schedule.peak_lr": 0.5, "schedule.kind": "triangular", "schedule.cycle_steps": 75},
            {"variant": "narrow", "schedule.kind": "triangular"},
            "@champion has schedule.peak_lr=0.5, outside FloatDistribution",
        ),
        (
            {"schedule.kind": "one_cycle", "bins.per_channel": 9},
            {"schedule.peak_lr": 2e-3},
            "@champion is none of the variants",
        ),
    ],
)
def test_a_sweep_may_start_from_the_champion(
    values: dict[str, Any], point: dict[str, Any], notice: str | None
) -> None:
    check(SEARCHED, SEARCHED.base())
    assert SEARCHED.first_points() == [{"schedule.kind": "cosine"}]
    space, notices = with_champion(SEARCHED, champion(**values))
    check(space, space.base())
    assert space.first_points() == [{"schedule.kind": "cosine"}, point]
    assert bool(notices) == bool(notice)
    assert notice is None or notices[0].startswith(notice)


def test_without_a_champion_a_sweep_starts_without_it_and_says_so() -> None:
    space, notices = with_champion(SEARCHED, None)
    assert space.first_points() == [{"schedule.kind": "cosine"}]
    assert "there is no @champion" in notices[0]
    depth = SearchSpace(
        search={"model.depth": IntDistribution(1, 2)}, start=("champion",), num_trials=1
    )
    space, notices = with_champion(depth, champion(**{"model.depth": 9}))
    assert space.start == ()
    assert "nothing of @champion is searched" in notices[-1]
    untouched, notices = with_champion(
        SEARCHED.model_copy(update={"start": ()}), champion(**{"model.depth": 9})
    )
    assert (untouched.start, notices) == ((), [])


WHOLE = SEARCHED.model_copy(
    update={
        "sampler": "nsga2",
        "stopping": "median",
        "replicates": 2,
        "objectives": {"val/psnr_db": "max"},
        "reference": {"schedule.kind": "cosine"},
    }
)


def test_a_description_is_plain_and_gives_the_space_back() -> None:
    plain = json.loads(json.dumps(WHOLE.description()))
    again = described(plain, {"training.steps": 7})
    assert again == WHOLE.model_copy(update={"fixed": {"training.steps": 7}, "num_trials": None})
    assert again.description() == WHOLE.description()


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"num_trials": 40}, []),
        ({"mode": "max"}, ["mode: 'min' -> 'max'"]),
        ({"sampler": "tpe"}, ["sampler: 'nsga2' -> 'tpe'"]),
        ({"stopping": "none"}, ["stopping: 'median' -> 'none'"]),
        ({"replicates": 3}, ["replicates: 2 -> 3"]),
        ({"exhaustive": True}, ["exhaustive: False -> True"]),
        ({"objectives": {}}, ["objectives: val/psnr_db: 'max' -> nothing"]),
        (
            {"reference": {"schedule.kind": "triangular"}},
            ["reference: schedule.kind: 'cosine' -> 'triangular'"],
        ),
        (
            {"variants": {"narrow": {}, "wide": {"bins.per_channel": 129}}},
            ["variants: wide: bins.per_channel: 65 -> 129"],
        ),
        ({"start": ("champion",)}, ["start: [{'schedule.kind': 'cosine'}, 'champion'] -> "]),
        (
            {"search": {"schedule.peak_lr": FloatDistribution(1e-3, 2e-2, log=True)}},
            [
                "schedule.kind is no longer searched (it was: one of 'cosine', 'triangular')",
                "schedule.peak_lr: float 0.001 to 0.01, log -> float 0.001 to 0.02, log",
                "schedule.cycle_steps is no longer searched (it was: integer 50 to 200, step 50 "
                "when schedule.kind is 'triangular')",
            ],
        ),
        (
            {"search": {**WHOLE.search, "model.depth": IntDistribution(1, 4)}},
            ["model.depth is searched now: integer 1 to 4"],
        ),
    ],
)
def test_every_change_but_more_trials_is_seen_and_said(
    change: dict[str, Any], lines: list[str]
) -> None:
    changed = WHOLE.model_copy(update=change)
    said = difference(WHOLE.description(), changed.description())
    assert len(said) == len(lines)
    for line, expected in zip(said, lines, strict=True):
        assert line.startswith(expected)


def test_a_changed_setting_is_said_with_both_values() -> None:
    before = ExperimentConfig()
    now = before.replaced({"training.steps": 300})
    assert difference(before.flat(), now.flat()) == ["training.steps: 400 -> 300"]


def test_where_nothing_was_trained_there_is_no_champion_to_start_from(tmp_path: Path) -> None:
    assert champion_values(Workspace.at(str(tmp_path))) is None
    assert list(tmp_path.iterdir()) == []
