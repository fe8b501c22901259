"""The learning rate as a pure function of the optimizer step.

t counts steps after the warm-up, T is how many of them there are, s = cycle_steps / 2 is Smith's
step size:

    constant     peak
    cosine       base + (peak - base) * (1 + cos(pi * t / T)) / 2
    triangular   base + (peak - base) * max(0, 1 - x)
    triangular2  base + (peak - base) * max(0, 1 - x) / 2^(cycle - 1)
    exp_range    base + (peak - base) * max(0, 1 - x) * gamma^t
                 where cycle = floor(1 + t / (2 s)) and x = |t / s - 2 * cycle + 1|

During the warm-up the rate rises linearly from 0 at step 0 to the schedule's first value.

Sources: Smith 2017, Cyclical Learning Rates for Training Neural Networks, arXiv 1506.01186, sec. 3
(exp_range decays the height of the cycle and keeps base_lr, as torch's CyclicLR does); Loshchilov
and Hutter 2017, SGDR, arXiv 1608.03983, eq. 5 (cosine, without restarts).
"""

import math

from tintlab.config import ScheduleConfig


def learning_rate(step: int, schedule: ScheduleConfig, total_steps: int) -> float:
    """The learning rate of optimizer step `step`, the first being 0.

    Raises: ValueError: the step is outside [0, total_steps].
    """
    if not 0 <= step <= total_steps:
        raise ValueError(f"step must be in [0, total_steps={total_steps}], got {step}")
    warmup = schedule.warmup_steps
    if step < warmup:
        return _after_warmup(0, schedule, total_steps) * step / warmup
    return _after_warmup(step - warmup, schedule, total_steps - warmup)


def _after_warmup(t: int, schedule: ScheduleConfig, steps: int) -> float:
    base, peak = schedule.base_lr, schedule.peak_lr
    match schedule.kind:
        case "constant":
            return peak
        case "cosine":
            # A warm-up as long as the training leaves no step to anneal over.
            progress = t / steps if steps > 0 else 0.0
            return base + (peak - base) * (1 + math.cos(math.pi * progress)) / 2
        case "triangular":
            height = 1.0
        case "triangular2":
            height = 0.5 ** (_cycle(t, schedule) - 1)
        case "exp_range":
            height = schedule.decay_per_step**t
    return base + (peak - base) * _triangle(t, schedule) * height


def _cycle(t: int, schedule: ScheduleConfig) -> int:
    """Smith's cycle number of step t, the first being 1."""
    return 1 + t // schedule.cycle_steps


def _triangle(t: int, schedule: ScheduleConfig) -> float:
    """Where step t is between base (0) and peak (1) of its cycle."""
    x = abs(2 * t / schedule.cycle_steps - 2 * _cycle(t, schedule) + 1)
    return max(0.0, 1.0 - x)
