"""How much should the parallel head, the pixel loss, rebalancing and the perceptual loss weigh?

The parallel head sees the grey photo alone: it shapes the encoder, and can also pull it away from
what the decoder needs (PIC weighs it 1, ColTran 0.01). Rebalancing after Zhang et al. 2016. The
perceptual distance is that of random features, which need no weights file. The likelihood, which no
weight changes the meaning of, leads; SSIM of the samples is traded off against it, since the pixel
and perceptual terms are for pictures. About 11 minutes on 2 cores; 4 on one GPU (an estimate).
"""

from optuna.distributions import FloatDistribution

from tintlab.sweep.space import SearchSpace

PLAIN = {"loss.parallel": 0.01, "loss.pixel": 0.05, "loss.rebalance": 0.0, "loss.perceptual": 0.0}

SPACE = SearchSpace(
    fixed={
        "training.steps": 300,
        "training.eval_every_steps": 150,
        "model.depth": 3,
        "loss.perceptual_net": "random_features",
        "evaluation.panel_images": 16,  # SSIM is measured on them
    },
    search={
        "loss.parallel": FloatDistribution(0.01, 1.0, log=True),
        "loss.pixel": FloatDistribution(0.01, 1.0, log=True),
        "loss.rebalance": FloatDistribution(0.0, 1.0),
        "loss.perceptual": FloatDistribution(0.0, 2.0),
    },
    start=(PLAIN, {**PLAIN, "loss.parallel": 0.2}, {**PLAIN, "loss.perceptual": 1.0}),
    num_trials=16,
    stopping="none",  # it would decide by the likelihood alone
    objectives={"val/ssim": "max"},
    reference=PLAIN,
)
