"""Where does self-attention help, and how many blocks of it, at equal steps?

In the encoder a block sees the whole grey photo; in the decoder it sees all colours painted so far.
Each block adds 5 % to the parameters. About 15 minutes on 2 cores.
"""

from optuna.distributions import IntDistribution

from tintlab.sweep.space import SearchSpace

SPACE = SearchSpace(
    fixed={
        "training.steps": 300,
        "training.eval_every_steps": 100,
        "model.depth": 3,
        "schedule.peak_lr": 3e-3,
    },
    search={
        "model.encoder_attention_blocks": IntDistribution(0, 2),
        "model.decoder_attention_blocks": IntDistribution(0, 2),
    },
    exhaustive=True,
)
