"""How deep, and so how wide, should the colorizer be at equal compute?

A step of a deeper model costs more (the width is 16 times the depth), so it makes fewer: as many as
2.5 teraFLOP allow, counted forwards and backwards by PyTorch's FlopCounterMode. Larger models want
smaller learning rates: three are tried with each. The average of the weights is short, since the
deepest makes only 120 steps. About 15 minutes on 2 cores (a FLOP of a narrow model takes longer
there); 8 on one GPU (an estimate: what counts there is the number of steps).
"""

from optuna.distributions import CategoricalDistribution

from tintlab.sweep.space import SearchSpace

STEPS_OF_DEPTH = {2: 1090, 3: 456, 4: 220, 5: 120}

SPACE = SearchSpace(
    fixed={"optimizer.ema_decay": 0.95},
    variants={
        f"depth {depth}": {
            "model.depth": depth,
            "training.steps": steps,
            "training.eval_every_steps": steps // 2,
        }
        for depth, steps in STEPS_OF_DEPTH.items()
    },
    search={"schedule.peak_lr": CategoricalDistribution((1e-3, 2e-3, 4e-3))},
    exhaustive=True,
    stopping="none",  # steps of different variants do not compare
    replicates=2,
    reference={"variant": "depth 4"},
)
