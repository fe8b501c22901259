"""What is tried next: the same whether a sweep ran through or was continued, and worth trying."""

import math
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tintlab.sweep.samplers import POPULATION, STARTUP_TRIALS, sampler_of
from tintlab.sweep.space import SearchSpace, When

CYCLES = ("triangular", "exp_range")
FLAT: dict[str, Any] = {
    "schedule.peak_lr": FloatDistribution(1e-3, 1e-1, log=True),
    "model.depth": IntDistribution(1, 6),
}
NESTED: dict[str, Any] = {
    "schedule.kind": CategoricalDistribution(("cosine", *CYCLES)),
    **FLAT,
    "schedule.cycle_steps": When("schedule.kind", CYCLES, IntDistribution(50, 200, step=50)),
    "schedule.decay_per_step": When(
        "schedule.cycle_steps", (100, 150, 200), FloatDistribution(0.985, 0.999)
    ),
}
BEST_LR = 1e-2


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def space_of(sampler: str) -> SearchSpace:
    return SearchSpace(
        search=FLAT if sampler == "gp" else NESTED,
        sampler=sampler,
        objectives={"val/psnr_db": "max"} if sampler == "nsga2" else {},
        num_trials=24,
    )


def study_of(space: SearchSpace, storage: str | None = None) -> optuna.Study:
    directions = ["minimize", "maximize"][: len(space.directions)]
    return optuna.create_study(
        storage=storage, study_name="s", directions=directions, load_if_exists=True
    )


def off(values: dict[str, Any]) -> float:
    return abs(math.log(values["schedule.peak_lr"] / BEST_LR))


def tried(study: optuna.Study, space: SearchSpace, number: int, seed: int = 3) -> dict[str, Any]:
    """One trial: asked, scored by its distance to a learning rate, told; some fail or stop."""
    study.sampler = sampler_of(space, seed, number)
    trial = study.ask()
    values = space.suggest(trial, space.base())
    score = off(values) + 0.1 * values["model.depth"]
    if number % 7 == 5:
        study.tell(trial, state=TrialState.FAIL)
    elif number % 7 == 3:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, [score, -values["model.depth"]][: len(space.directions)])
    return values


@pytest.mark.parametrize(
    ("sampler", "trials"), [("tpe", 14), ("gp", 10), ("random", 6), ("nsga2", 14)]
)
def test_a_continued_sweep_draws_what_an_uninterrupted_one_draws(
    tmp_path: Path, sampler: str, trials: int
) -> None:
    space = space_of(sampler)
    whole = study_of(space)
    once = [tried(whole, space, number) for number in range(trials)]
    again = []
    for number in range(trials):
        if number % 3 == 0:  # another process goes on
            study = study_of(space, f"sqlite:///{tmp_path}/study.db")
        again.append(tried(study, space, number))
    assert once == again
    assert len({tuple(values.items()) for values in once}) > trials / 2
    assert tried(study_of(space), space, 0, seed=4) != once[0]


@pytest.mark.parametrize(("sampler", "seeds", "trials"), [("tpe", 4, 30), ("gp", 1, 18)])
def test_a_model_of_what_was_tried_beats_chance(sampler: str, seeds: int, trials: int) -> None:
    space = space_of(sampler)
    early, late = [], []
    for seed in range(seeds):
        study = study_of(space)
        drawn = [off(tried(study, space, number, seed)) for number in range(trials)]
        early += drawn[:STARTUP_TRIALS]
        late += drawn[-8:]
    assert statistics.mean(late) < 0.85 * statistics.mean(early)


def test_generations_follow_each_other_and_children_come_from_parents() -> None:
    space = space_of("nsga2")
    study = study_of(space)
    for number in range(4 * POPULATION):
        tried(study, space, number)
    generations = [t.system_attrs["NSGAIISampler:generation"] for t in study.trials]
    assert generations == sorted(generations)
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    of_first = [t for t in complete if t.system_attrs["NSGAIISampler:generation"] == 0]
    assert len(of_first) == POPULATION
    rates = [t.params["schedule.peak_lr"] for t in study.trials]
    children = [n for n, generation in enumerate(generations) if generation > 0]
    inherited = [n for n in children if rates[n] in rates[:n]]
    assert len(inherited) > len(children) / 2
    assert len(set(rates[:POPULATION])) == POPULATION  # nobody to inherit from


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_key_is_drawn_only_where_all_that_it_depends_on_is_there(sampler: str) -> None:
    space = space_of(sampler)
    study = study_of(space)
    drawn = [tried(study, space, number) for number in range(40)]
    for values in drawn:
        cyclic = values["schedule.kind"] in CYCLES
        assert ("schedule.cycle_steps" in values) == cyclic
        decays = cyclic and values["schedule.cycle_steps"] >= 100
        assert ("schedule.decay_per_step" in values) == decays
    assert len({tuple(values) for values in drawn}) == 3


def test_starting_points_are_tried_first_and_a_partial_one_is_completed() -> None:
    space = space_of("tpe").model_copy(
        update={"start": ({"schedule.kind": "cosine"}, {"schedule.peak_lr": 0.05})}
    )
    study = study_of(space)
    for point in space.first_points():
        study.enqueue_trial(point)
    first, second = tried(study, space, 0), tried(study, space, 1)
    assert first["schedule.kind"] == "cosine"
    assert 1e-3 <= first["schedule.peak_lr"] <= 1e-1
    assert second["schedule.peak_lr"] == 0.05
