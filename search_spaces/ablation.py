"""Which change to the first colorizer helps, at equal steps and nearly equal parameters?

The first one is a residual CNN trained by cross-entropy at a constant learning rate, the best of
five between 5e-4 and 8e-3. A variant changes one thing about it, `all` everything; three seeds
each. `random_features` stands for the perceptual loss: an untrained trunk, since no trained one
comes with tintlab. Attention adds 9 % to the parameters. About 20 minutes on 2 cores; 6 on one GPU
(an estimate).
"""

from tintlab.sweep.space import SearchSpace

INITIAL = {"model.encoder_norm": "none", "schedule.kind": "constant", "schedule.peak_lr": 4e-3}
ATTENTION = {"model.encoder_attention_blocks": 1, "model.decoder_attention_blocks": 1}
RANDOM_FEATURES = {"loss.perceptual": 1.0, "loss.perceptual_net": "random_features"}
CYCLIC_LR = {
    "schedule.kind": "triangular",
    "schedule.peak_lr": 8e-3,
    "schedule.base_lr": 1e-3,
    "schedule.cycle_steps": 120,
}
NORM_AND_DROPOUT = {"model.encoder_norm": "batch", "model.dropout": 0.05}

SPACE = SearchSpace(
    fixed={"model.depth": 3, "training.steps": 480, "training.eval_every_steps": 240, **INITIAL},
    variants={
        "initial": {},
        "attention": ATTENTION,
        "random_features": RANDOM_FEATURES,
        "cyclic_lr": CYCLIC_LR,
        "norm_dropout": NORM_AND_DROPOUT,
        "all": {**ATTENTION, **RANDOM_FEATURES, **CYCLIC_LR, **NORM_AND_DROPOUT},
    },
    exhaustive=True,
    stopping="none",
    replicates=3,
    reference={"variant": "initial"},
)
