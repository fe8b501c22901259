"""Which learning rate suits these photos, and do cycles learn faster than one cosine?

What to ask of a new data set first: it stops early what is behind, and one seed each is enough to
leave out what is far off. About 5 minutes on 2 cores; 2 on one GPU (an estimate).
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
    start=({"schedule.kind": "cosine", "schedule.peak_lr": 3e-3}, "champion"),
    num_trials=12,
    reference={"schedule.kind": "cosine"},
)
