"""Which cyclic schedule, period and peak beat one cosine at equal steps?

Cycles of Smith 2017 and warm restarts of Loshchilov and Hutter 2017 against one half cosine, which
starts at three peaks, so that it is not beaten by a bad one. All have the same steps and end.
About 15 minutes on 2 cores; 6 on one GPU (an estimate: so small a model does not fill it).
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tintlab.sweep.space import SearchSpace, When

CYCLES = ("triangular", "triangular2", "exp_range", "cosine_restarts")

SPACE = SearchSpace(
    fixed={"training.steps": 400, "training.eval_every_steps": 200, "model.depth": 3},
    search={
        "schedule.kind": CategoricalDistribution(("cosine", *CYCLES)),
        "schedule.peak_lr": FloatDistribution(1e-3, 1.6e-2, log=True),
        "schedule.cycle_steps": When("schedule.kind", CYCLES, IntDistribution(50, 200, step=50)),
        "schedule.decay_per_step": When(
            "schedule.kind", ("exp_range",), FloatDistribution(0.985, 0.999)
        ),
    },
    start=(
        *({"schedule.kind": "cosine", "schedule.peak_lr": peak} for peak in (2e-3, 4e-3, 8e-3)),
        *({"schedule.kind": kind, "schedule.cycle_steps": 100} for kind in CYCLES),
    ),
    num_trials=12,
    stopping="none",  # a cycle at its top looks worse than it is
    replicates=2,
    reference={"schedule.kind": "cosine"},
)
