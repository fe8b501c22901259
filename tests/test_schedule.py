"""The learning rate: the papers' values at named steps, and torch's schedulers at every step."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, LRScheduler

from tintlab.config import ScheduleConfig
from tintlab.training.schedule import learning_rate

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


@pytest.mark.parametrize("kind", ["constant", "cosine", "triangular", "triangular2", "exp_range"])
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
