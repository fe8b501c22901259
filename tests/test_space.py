"""A search space is refused before anything starts, or every sample of it builds."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError
from tintlab.sweep.space import SearchSpace, When, fingerprint, load_space, space_names

LR = FloatDistribution(1e-3, 1e-2, log=True)


@pytest.mark.parametrize("name", space_names())
def test_every_space_asks_a_question_and_samples_to_configs(name: str) -> None:
    question = load_space(name)
    assert question.text.endswith("?")
    base = question.space.base()
    question.space.check(base)
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
    assert len(kinds) == 4


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"search": {"schedule.peek_lr": LR}}, "did you mean schedule.peak_lr"),
        ({"search": {}}, "the search space is empty"),
        (
            {"search": {"schedule.peak_lr": LR}, "fixed": {"schedule.peak_lr": 1e-3}},
            "both fixed and searched",
        ),
        ({"search": {"model.depth": IntDistribution(0, 3)}}, "model.depth must be greater"),
        (
            {"search": {"schedule.kind": CategoricalDistribution(("cosine", "saw"))}},
            "schedule.kind must be",
        ),
        (
            {"search": {"schedule.cycle_steps": When("model.dept", (1,), IntDistribution(2, 3))}},
            "did you mean model.depth",
        ),
        (
            {
                "search": {
                    "schedule.cycle_steps": When("model.depth", (1,), IntDistribution(2, 3)),
                    "model.depth": IntDistribution(1, 2),
                }
            },
            "list model.depth before it",
        ),
        ({"search": {"schedule.peak_lr": LR}, "start": ({"schedule.peak_lr": 1.0},)}, "outside"),
        ({"variants": {"deep": {"model.dept": 2}}}, "did you mean model.depth"),
        ({"variants": {"deep": {"model.depth": 0}}}, "model.depth must be greater"),
        (
            {
                "variants": {"deep": {"model.depth": 2}},
                "search": {"model.depth": IntDistribution(1, 2)},
            },
            "both in a variant and searched",
        ),
        ({"search": {"schedule.peak_lr": LR}, "exhaustive": True}, "cannot count the values"),
    ],
)
def test_a_space_that_cannot_run_is_refused(space: dict[str, Any], message: str) -> None:
    asked = SearchSpace(num_trials=1, **space)
    with pytest.raises(ConfigError, match=message):
        asked.check(asked.base() if "model" not in message else ExperimentConfig())


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
    space.check(base)
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


def test_a_file_is_a_space_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        '"""Does depth help?"""\n'
        "from optuna.distributions import IntDistribution\n"
        "from tintlab.sweep.space import SearchSpace\n"
        'SPACE = SearchSpace(search={"model.depth": IntDistribution(1, 2)}, num_trials=2)\n'
    )
    assert load_space(str(file)).text == "Does depth help?"
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(ConfigError, match="fails on import: ModuleNotFoundError"):
        load_space(str(file))
    with pytest.raises(ConfigError, match="no search space file"):
        load_space(str(tmp_path / "absent.py"))


def test_the_fingerprint_sees_every_change_but_not_a_searched_default() -> None:
    space = SearchSpace(search={"model.depth": IntDistribution(1, 2)}, num_trials=2)
    wider = SearchSpace(search={"model.depth": IntDistribution(1, 3)}, num_trials=2)
    base = ExperimentConfig()
    assert fingerprint(space, base) == fingerprint(space, base.replaced({"model.depth": 2}))
    assert fingerprint(space, base) != fingerprint(wider, base)
    assert fingerprint(space, base) != fingerprint(space, base.replaced({"training.steps": 5}))
