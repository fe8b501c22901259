"""How much should the parallel head weigh beside the autoregressive loss?

The parallel head sees the grey photo alone: it shapes the encoder, and can also pull it away from
what the decoder needs (PIC weighs it 1, ColTran 0.01). Scored by the autoregressive bits only.
About 12 minutes on 2 cores.
"""

from optuna.distributions import FloatDistribution

from tintlab.sweep.space import SearchSpace

SPACE = SearchSpace(
    fixed={"training.steps": 300, "training.eval_every_steps": 100, "model.depth": 3},
    search={
        "loss.parallel": FloatDistribution(0.01, 1.0, log=True),
        "loss.smoothing_sigma_ab": FloatDistribution(0.0, 5.0),
    },
    start=({"loss.parallel": 1.0, "loss.smoothing_sigma_ab": 0.0},),
    num_trials=8,
)
