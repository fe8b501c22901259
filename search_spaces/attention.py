"""Where does self-attention help, and how many blocks of it, at equal steps?

In the encoder a block sees the whole grey photo; in the decoder it sees all colours painted so far.
A block in each adds 9 % to the parameters and 8 % to the FLOPs of a step. About 9 minutes on 2
cores; 4 on one GPU (an estimate).
"""

from optuna.distributions import IntDistribution

from tintlab.sweep.space import SearchSpace

SPACE = SearchSpace(
    fixed={
        "training.steps": 300,
        "training.eval_every_steps": 150,
        "model.depth": 3,
        "schedule.peak_lr": 3e-3,
    },
    search={
        "model.encoder_attention_blocks": IntDistribution(0, 2),
        "model.decoder_attention_blocks": IntDistribution(0, 2),
    },
    exhaustive=True,
    stopping="none",
    replicates=2,
    reference={"model.encoder_attention_blocks": 0, "model.decoder_attention_blocks": 0},
)
