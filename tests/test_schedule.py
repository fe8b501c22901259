"""The learning rate: the papers' values at named steps, and torch's schedulers at every step."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
)

from tintlab.config import ExperimentConfig
from tintlab.errors import ConfigError
from tintlab.settings import ScheduleConfig
from tintlab.training.schedule import ends_cycle, evaluates_after, learning_rate

KINDS = (
    "constant",
    "cosine",
    "cosine_restarts",
    "triangular",
    "triangular2",
    "exp_range",
    "one_cycle",
)

# Smith 2017, fig. 6: CIFAR-10 with base 0.001, maximum 0.006 and a step size of 2,000.
CIFAR = {"base_lr": 0.001, "peak_lr": 0.006, "cycle_steps": 4_000}


def smith(kind: str, iteration: int, base: float, maximum: float, stepsize: float, gamma: float):
    """The listing of Smith 2017, sec. 3.1, with the heights its text gives each policy."""
    cycle = math.floor(1 + iteration / (2 * stepsize))
    x = abs(iteration / stepsize - 2 * cycle + 1)
    height = (maximum - base) * max(0, 1 - x)
    return (
        base
        + height
        * {
            "triangular": 1,
            "triangular2": 1 / 2 ** (cycle - 1),
            "exp_range": gamma**iteration,
        }[kind]
    )


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("triangular", 0, 0.001),
        ("triangular", 1_000, 0.0035),
        ("triangular", 2_000, 0.006),
        ("triangular", 4_000, 0.001),
        ("triangular", 6_000, 0.006),
        ("triangular2", 2_000, 0.006),
        ("triangular2", 4_000, 0.001),
        ("triangular2", 6_000, 0.0035),
        ("triangular2", 10_000, 0.00225),
        ("exp_range", 2_000, 0.001 + 0.005 * 0.99994**2_000),
        ("exp_range", 6_000, 0.001 + 0.005 * 0.99994**6_000),
        ("cosine", 0, 0.006),
        ("cosine", 6_000, 0.0035),
        ("cosine", 12_000, 0.001),
        ("constant", 7_777, 0.006),
    ],
)
def test_values_of_the_papers_example(kind, step, expected):
    schedule = ScheduleConfig(kind=kind, decay_per_step=0.99994, **CIFAR)
    assert learning_rate(step, schedule, 12_000) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("cycle_steps", [2, 7, 40])
def test_cycles_follow_smiths_listing(kind, cycle_steps):
    schedule = ScheduleConfig(
        kind=kind, base_lr=1e-4, peak_lr=1e-2, cycle_steps=cycle_steps, decay_per_step=0.99
    )
    for step in range(200):
        expected = smith(kind, step, 1e-4, 1e-2, cycle_steps / 2, 0.99)
        assert learning_rate(step, schedule, 200) == pytest.approx(expected, rel=1e-9)


def torch_rates(make: "type[LRScheduler]", steps: int, **options) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=options.pop("lr", 0.01))
    scheduler = make(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["triangular", "triangular2", "exp_range"])
def test_cycles_equal_torch(kind):
    schedule = ScheduleConfig(
        kind=kind, base_lr=1e-4, peak_lr=1e-2, cycle_steps=50, decay_per_step=0.995
    )
    expected = torch_rates(
        CyclicLR,
        300,
        base_lr=1e-4,
        max_lr=1e-2,
        step_size_up=25,
        mode=kind,
        gamma=0.995,
        cycle_momentum=False,
    )
    ours = [learning_rate(step, schedule, 300) for step in range(300)]
    assert ours == pytest.approx(expected, rel=1e-9)


def test_cosine_equals_torch():
    schedule = ScheduleConfig(kind="cosine", base_lr=1e-4, peak_lr=1e-2)
    expected = torch_rates(CosineAnnealingLR, 300, lr=1e-2, T_max=300, eta_min=1e-4)
    ours = [learning_rate(step, schedule, 300) for step in range(300)]
    assert ours == pytest.approx(expected, rel=1e-9)


# SGDR, fig. 1: from 0.05 to 0, restarts after 1, 3, 7, 15, ... epochs, here of 100 steps.
SGDR = ScheduleConfig(
    kind="cosine_restarts", peak_lr=0.05, base_lr=0, cycle_steps=100, cycle_growth=2
)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.05),
        (50, 0.025),
        (99, 0.025 * (1 + math.cos(math.pi * 99 / 100))),
        (100, 0.05),
        (200, 0.025),
        (250, 0.025 * (1 + math.cos(math.pi * 150 / 200))),
        (300, 0.05),
        (500, 0.025),
        (700, 0.05),
        (1_100, 0.025),
    ],
)
def test_restarts_are_where_sgdr_has_them(step, expected):
    assert learning_rate(step, SGDR, 1_500) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("cycle_steps", [2, 7, 40])
def test_restarts_equal_torch(cycle_steps, growth):
    schedule = ScheduleConfig(
        kind="cosine_restarts",
        base_lr=1e-4,
        peak_lr=1e-2,
        cycle_steps=cycle_steps,
        cycle_growth=growth,
    )
    expected = torch_rates(
        CosineAnnealingWarmRestarts, 300, lr=1e-2, T_0=cycle_steps, T_mult=growth, eta_min=1e-4
    )
    ours = [learning_rate(step, schedule, 300) for step in range(300)]
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
@pytest.mark.parametrize("steps", [3, 20, 301])
def test_one_cycle_equals_torchs_three_phases(steps, share):
    schedule = ScheduleConfig(
        kind="one_cycle", base_lr=4e-4, peak_lr=1e-2, rise_share=share, final_divisor=1e4
    )
    expected = torch_rates(
        OneCycleLR,
        steps,
        max_lr=1e-2,
        total_steps=steps,
        # torch puts the peak at pct_start * steps - 1; this is where ours is.
        pct_start=(share * (steps - 1) + 1) / steps,
        anneal_strategy="linear",
        three_phase=True,
        cycle_momentum=False,
        div_factor=25,
        final_div_factor=1e4,
    )
    ours = [learning_rate(step, schedule, steps) for step in range(steps)]
    assert ours == pytest.approx(expected, rel=1e-9)


def test_one_cycle_rises_falls_and_ends_far_below_base():
    schedule = ScheduleConfig(kind="one_cycle", base_lr=1e-4, peak_lr=1e-2)
    rates = [learning_rate(step, schedule, 401) for step in range(401)]
    assert rates[0] == 1e-4
    assert max(rates) == rates[180] == 1e-2
    assert rates[360] == pytest.approx(1e-4, rel=1e-9)
    assert rates[-1] == learning_rate(401, schedule, 401) == pytest.approx(1e-8, rel=1e-9)
    assert rates[:181] == sorted(rates[:181])
    assert rates[180:] == sorted(rates[180:], reverse=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 30])
def test_no_kind_leaves_the_range_it_was_given(kind, warmup):
    schedule = ScheduleConfig(kind=kind, base_lr=1e-4, peak_lr=1e-2, warmup_steps=warmup)
    rates = [learning_rate(step, schedule, 430) for step in range(warmup, 430)]
    assert max(rates) <= 1e-2
    assert min(rates) >= (1e-8 if kind == "one_cycle" else 1e-4) * (1 - 1e-12)


def ends(steps: int, **settings) -> list[int]:
    schedule = ScheduleConfig(**settings)
    return [done for done in range(steps + 1) if ends_cycle(done, schedule, steps)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "constant", "cycle_steps": 10}, []),
        ({"kind": "cosine", "cycle_steps": 10}, []),
        ({"kind": "triangular", "cycle_steps": 30}, [30, 60, 90]),
        ({"kind": "triangular2", "cycle_steps": 50}, [50, 100]),
        ({"kind": "exp_range", "cycle_steps": 33, "warmup_steps": 5}, [38, 71]),
        ({"kind": "triangular", "cycle_steps": 101}, []),
        ({"kind": "cosine_restarts", "cycle_steps": 25}, [25, 50, 75, 100]),
        ({"kind": "cosine_restarts", "cycle_steps": 10, "cycle_growth": 2}, [10, 30, 70]),
        (
            {"kind": "cosine_restarts", "cycle_steps": 10, "cycle_growth": 3, "warmup_steps": 7},
            [17, 47],
        ),
        ({"kind": "one_cycle"}, [89]),
        ({"kind": "one_cycle", "rise_share": 0.25, "warmup_steps": 19}, [59]),
    ],
)
def test_cycles_end_at(settings, expected):
    assert ends(100, **settings) == expected


@pytest.mark.parametrize("kind", ["cosine_restarts", "triangular", "triangular2", "exp_range"])
def test_a_cycle_ends_where_the_rate_is_lowest(kind):
    """What is evaluated there is comparable: the rate is next to base, whatever the peak is."""
    schedule = ScheduleConfig(kind=kind, base_lr=0, peak_lr=1, cycle_steps=40, warmup_steps=9)
    for done in ends(200, **schedule.model_dump()):
        cycle = [learning_rate(step, schedule, 200) for step in range(done - 40, done)]
        edge = 0 if kind == "cosine_restarts" else 1  # the triangles begin at base, too
        assert min(cycle[edge:]) == cycle[-1] < 0.06


def evaluated(**settings) -> list[int]:
    config = ExperimentConfig().replaced({"training.steps": 100, **settings})
    return [done for done in range(1, 101) if evaluates_after(done, config)]


def test_evaluations_come_at_cycle_ends_only_where_they_are_asked_for():
    cyclic = {"schedule.kind": "triangular", "schedule.cycle_steps": 25}
    every = {"training.eval_every_steps": 40}
    assert evaluated(**cyclic, **every) == [40, 80, 100]
    both = evaluated(**cyclic, **every, **{"training.eval_at_cycle_ends": True})
    assert both == [25, 40, 50, 75, 80, 100]
    plain = evaluated(**every, **{"training.eval_at_cycle_ends": True})
    assert plain == [40, 80, 100]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule.warmup_steps": 401},
            "training.steps must be at least 401 with .*cosine and .*warmup_steps=401, got 400",
        ),
        (
            {"schedule.kind": "one_cycle", "schedule.warmup_steps": 398},
            "training.steps must be at least 401 with schedule.kind=one_cycle and .*=398, got 400",
        ),
        ({"schedule.rise_share": 0.5}, "schedule.rise_share must be less than 0.5, got 0.5"),
        ({"schedule.cycle_growth": 0}, "schedule.cycle_growth must be greater .*1, got 0"),
        ({"schedule.cycle_growth": 1.5}, "schedule.cycle_growth must be a valid integer"),
        ({"schedule.final_divisor": 0.1}, "schedule.final_divisor must be greater .*1, got 0.1"),
    ],
)
def test_a_schedule_that_cannot_be_is_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as refused:
        ExperimentConfig().replaced(settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_rises_in_a_line_to_the_schedule_which_starts_after_it(kind):
    plain = ScheduleConfig(kind=kind, cycle_steps=20)
    warm = ScheduleConfig(kind=kind, cycle_steps=20, warmup_steps=10)
    first = learning_rate(0, plain, 100)
    assert learning_rate(0, warm, 110) == 0
    assert learning_rate(5, warm, 110) == pytest.approx(first / 2)
    for step in range(100):
        assert learning_rate(10 + step, warm, 110) == learning_rate(step, plain, 100)


def test_training_that_is_all_warmup():
    schedule = ScheduleConfig(kind="cosine", warmup_steps=10, peak_lr=1e-2)
    assert learning_rate(9, schedule, 10) == pytest.approx(9e-3)
    assert learning_rate(10, schedule, 10) == pytest.approx(1e-2)


@pytest.mark.parametrize("step", [-1, 101])
def test_a_step_outside_the_training_is_refused(step):
    with pytest.raises(ValueError, match=rf"\[0, total_steps=100\], got {step}"):
        learning_rate(step, ScheduleConfig(), 100)
