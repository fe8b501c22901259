"""How much should the parallel head, rebalancing, smoothing and perceptual loss weigh?

The parallel head sees the grey photo alone: it shapes the encoder, and can also pull it away from
what the decoder needs (PIC weighs it 1, ColTran 0.01). Rebalancing and smoothing after Zhang et al.
2016. The perceptual distance is that of random features, which need no weights file. Scored by the
plain autoregressive bits only, which no weight changes the meaning of; what else a weight is good
for (colourfulness, ab error) is in the runs. About 20 minutes on 2 cores.
"""

from optuna.distributions import FloatDistribution

from tintlab.sweep.space import SearchSpace

SPACE = SearchSpace(
    fixed={
        "training.steps": 300,
        "training.eval_every_steps": 100,
        "model.depth": 3,
        "loss.perceptual_net": "random_features",
    },
    search={
        "loss.parallel": FloatDistribution(0.01, 1.0, log=True),
        "loss.rebalance": FloatDistribution(0.0, 1.0),
        "loss.smoothing_sigma_ab": FloatDistribution(0.0, 5.0),
        "loss.perceptual": FloatDistribution(0.0, 2.0),
    },
    start=(
        {
            "loss.parallel": 0.2,
            "loss.rebalance": 0.0,
            "loss.smoothing_sigma_ab": 0.0,
            "loss.perceptual": 0.0,
        },
    ),
    num_trials=10,
)
