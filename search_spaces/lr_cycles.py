"""Which cyclic schedule, period and peak beat one cosine at equal steps?

Cycles of Smith 2017 (triangular, triangular2, exp_range) against one half cosine; the period and
the decay exist for the cycles only. Every trial takes the same number of steps. About 12 minutes on
2 cores.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tintlab.sweep.space import SearchSpace, When

CYCLES = ("triangular", "triangular2", "exp_range")

SPACE = SearchSpace(
    fixed={"training.steps": 400, "training.eval_every_steps": 100, "model.depth": 3},
    search={
        "schedule.kind": CategoricalDistribution(("cosine", *CYCLES)),
        "schedule.peak_lr": FloatDistribution(1e-3, 8e-3, log=True),
        "schedule.cycle_steps": When("schedule.kind", CYCLES, IntDistribution(50, 200, step=50)),
        "schedule.decay_per_step": When(
            "schedule.kind", ("exp_range",), FloatDistribution(0.985, 0.999)
        ),
    },
    start=({"schedule.kind": "cosine", "schedule.peak_lr": 3e-3},),
    num_trials=12,
)
