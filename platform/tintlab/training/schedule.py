"""The learning rate as a pure function of the optimizer step.

t counts steps after the warm-up, T is how many of them there are, s = cycle_steps / 2 is Smith's
step size, r = rise_share:

    constant         peak
    cosine           base + (peak - base) * (1 + cos(pi * t / T)) / 2
    cosine_restarts  base + (peak - base) * (1 + cos(pi * T_cur / T_i)) / 2
                     where T_cur is the steps since the last restart, T_i those from it to the next:
                     cycle_steps at first, then each time cycle_growth times as many
    triangular       base + (peak - base) * max(0, 1 - x)
    triangular2      base + (peak - base) * max(0, 1 - x) / 2^(cycle - 1)
    exp_range        base + (peak - base) * max(0, 1 - x) * gamma^t
                     where cycle = floor(1 + t / (2 s)) and x = |t / s - 2 * cycle + 1|
    one_cycle        linear in t / (T - 1) between base at 0, peak at r, base at 2 r and
                     base / final_divisor at 1, which is the last step

During the warm-up the rate rises linearly from 0 at step 0 to the schedule's first value.

Sources: Smith 2017, Cyclical Learning Rates for Training Neural Networks, arXiv 1506.01186, sec. 3
(exp_range decays the height of the cycle and keeps base_lr, as torch's CyclicLR does); Loshchilov
and Hutter 2017, SGDR, arXiv 1608.03983, eq. 5 (cosine is one cycle of it, as long as the training);
Smith and Topin 2018, Super-Convergence, arXiv 1708.07120, sec. 3 (one_cycle; the momentum is not
cycled here).
"""

import math

import numpy as np

from tintlab.config import ExperimentConfig
from tintlab.settings import ScheduleConfig


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


def ends_cycle(steps_done: int, schedule: ScheduleConfig, total_steps: int) -> bool:
    """Whether a cycle of the schedule ends with the last of so many steps.

    The next step is the first at base again or, of cosine_restarts, the first after a restart. The
    only cycle of one_cycle ends before its rate falls below base.
    """
    t = steps_done - schedule.warmup_steps
    if t <= 0:
        return False
    match schedule.kind:
        case "constant" | "cosine":
            return False
        case "cosine_restarts":
            return _since_restart(t, schedule)[0] == 0
        case "one_cycle":
            last = total_steps - schedule.warmup_steps - 1
            return t == round(2 * schedule.rise_share * last)
    return t % schedule.cycle_steps == 0


def evaluates_after(steps_done: int, config: ExperimentConfig) -> bool:
    """Whether a validation, with its checkpoint, follows the last of so many steps."""
    training = config.training
    if steps_done % training.eval_every_steps == 0 or steps_done == training.steps:
        return True
    return training.eval_at_cycle_ends and ends_cycle(steps_done, config.schedule, training.steps)


def _after_warmup(t: int, schedule: ScheduleConfig, steps: int) -> float:
    base, peak = schedule.base_lr, schedule.peak_lr
    match schedule.kind:
        case "constant":
            return peak
        case "cosine":
            # A warm-up as long as the training leaves no step to anneal over.
            return base + (peak - base) * _half_cosine(t / steps if steps > 0 else 0.0)
        case "cosine_restarts":
            since, length = _since_restart(t, schedule)
            return base + (peak - base) * _half_cosine(since / length)
        case "one_cycle":
            progress = t / (steps - 1) if steps > 1 else 0.0
            turns = (0.0, schedule.rise_share, 2 * schedule.rise_share, 1.0)
            rates = (base, peak, base, base / schedule.final_divisor)
            return float(np.interp(progress, turns, rates))
        case "triangular":
            height = 1.0
        case "triangular2":
            height = 0.5 ** (_cycle(t, schedule) - 1)
        case "exp_range":
            height = schedule.decay_per_step**t
    return base + (peak - base) * _triangle(t, schedule) * height


def _half_cosine(progress: float) -> float:
    """From 1 to 0 while progress goes from 0 to 1."""
    return (1 + math.cos(math.pi * progress)) / 2


def _since_restart(t: int, schedule: ScheduleConfig) -> tuple[int, int]:
    """T_cur and T_i of SGDR: steps since the last restart, and from it to the next."""
    length = schedule.cycle_steps
    if schedule.cycle_growth == 1:
        return t % length, length
    while t >= length:
        t -= length
        length *= schedule.cycle_growth
    return t, length


def _cycle(t: int, schedule: ScheduleConfig) -> int:
    """Smith's cycle number of step t, the first being 1."""
    return 1 + t // schedule.cycle_steps


def _triangle(t: int, schedule: ScheduleConfig) -> float:
    """Where step t is between base (0) and peak (1) of its cycle."""
    x = abs(2 * t / schedule.cycle_steps - 2 * _cycle(t, schedule) + 1)
    return max(0.0, 1.0 - x)
