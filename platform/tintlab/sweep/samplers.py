"""Which configuration is tried next: Optuna's samplers, seeded anew for every trial.

A sampler's draws depend on the study and on a random generator. The generator is made from the
sweep's seed and the trial's number, so a continued sweep draws what an uninterrupted one would
have drawn from the same record. Nothing else in a sampler outlives a trial: TPE and GP fit the
study's finished trials each time, and NSGA-II keeps generations and parents in the study itself.

Sources, by name: tpe, Watanabe 2023, Tree-structured Parzen Estimator, arXiv:2304.11127; gp,
Optuna's GPSampler, log expected improvement of a Gaussian process (Ament et al. 2023); nsga2, Deb
et al. 2002, A fast and elitist multiobjective genetic algorithm.
"""

import warnings

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from tintlab.sweep.space import SearchSpace

POPULATION = 8
"""Trials in a generation of nsga2. Optuna's 50 would be random search to the end of a sweep of 40;
it is a constant, so that a sweep continued with more trials draws as one begun with them."""

STARTUP_TRIALS = 6
"""Finished trials that tpe and gp want before they model anything. Optuna's 10 are most of a sweep
of 12; starting points count."""


def sampler_of(space: SearchSpace, seed: int, number: int) -> BaseSampler:
    """The sampler that draws trial `number` of a sweep with this seed.

    An exhaustive space's trials are all enqueued: nothing is left for the sampler to draw.

    Conditional keys: tpe models every group of keys that occur together; nsga2 crosses the keys
    that all trials have, and draws the others at random; gp is refused them (`checks`).
    Failed trials are no parents of nsga2 and no points of gp; tpe takes them for neither good nor
    bad. A generation of nsga2 is full when so many trials are complete: where several run at once,
    those asked before that are of the older generation, as Optuna's own parallel use has it.
    """
    own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    if space.sampler == "random":
        return RandomSampler(seed=own)
    if space.sampler == "nsga2":
        return NSGAIISampler(population_size=POPULATION, seed=own)
    with warnings.catch_warnings():  # group, and gp as a whole, are "experimental"
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if space.sampler == "gp":
            # Two seeds of one configuration differ: the model must not pass through every score.
            return GPSampler(
                seed=own, n_startup_trials=STARTUP_TRIALS, deterministic_objective=False
            )
        return TPESampler(
            seed=own,
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            group=True,  # the only way with When
            constant_liar=True,  # trials that run at once keep away from each other
        )
