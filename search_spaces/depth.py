"""How deep (and so how wide) should the colorizer be at equal steps?

`model.depth` is the one dial: the width is 16 times as large. The peak learning rate is searched
with it, because a larger model wants a smaller one. About 15 minutes on 2 cores.
"""

from optuna.distributions import FloatDistribution, IntDistribution

from tintlab.sweep.space import SearchSpace

SPACE = SearchSpace(
    fixed={"training.steps": 300, "training.eval_every_steps": 100},
    search={
        "model.depth": IntDistribution(2, 5),
        "schedule.peak_lr": FloatDistribution(5e-4, 5e-3, log=True),
    },
    start=({"model.depth": 3},),
    num_trials=8,
)
