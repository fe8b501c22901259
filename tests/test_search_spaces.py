"""The questions that come with tintlab are what their docstrings say."""

import importlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tintlab.config import ExperimentConfig
from tintlab.data.shard_format.ab_statistics import BINS, AbStatistics
from tintlab.model.colorizer import Colorizer
from tintlab.sweep.question import load_space, space_names
from tintlab.training.objective import Objective

NO_PHOTOS = AbStatistics(
    pixels=0,
    L_code_sum=0,
    L_code_square_sum=0,
    code_sum=(0, 0),
    code_square_sum=(0, 0),
    histogram=[[0] * BINS] * BINS,
)


def flops_of_step(config: ExperimentConfig) -> int:
    """Forwards and backwards of one training step."""
    model = Colorizer(config.model, config.bins)
    objective = Objective(model, config, NO_PHOTOS)
    batch, side = config.training.batch_size, config.data.crop_px
    with FlopCounterMode(display=False) as counter:
        loss, _ = objective(
            torch.full((batch, 1, side, side), 50.0), torch.zeros(batch, 2, side, side)
        )
        loss.backward()
    return counter.get_total_flops()


def test_variants_of_depth_take_equal_compute() -> None:
    space = load_space("depth").space
    base = space.base()
    totals = []
    for name in space.variants:
        config = space.experiment(base, {"variant": name})
        assert name == f"depth {config.model.depth}"
        totals.append(flops_of_step(config) * config.training.steps)
    assert max(totals) < 1.01 * min(totals)
    assert totals[0] == pytest.approx(2.5e12, rel=0.01)


def test_attention_costs_what_its_question_says() -> None:
    base = load_space("attention").space.base()
    both = base.replaced({"model.encoder_attention_blocks": 1, "model.decoder_attention_blocks": 1})
    of_base, of_both = (Colorizer(c.model, c.bins).parameter_count for c in (base, both))
    assert of_both / of_base == pytest.approx(1.09, abs=0.01)
    assert flops_of_step(both) / flops_of_step(base) == pytest.approx(1.08, abs=0.01)


@pytest.mark.parametrize("name", space_names())
def test_a_question_says_how_long_its_answer_takes_and_what_is_to_be_beaten(name: str) -> None:
    space = load_space(name).space
    said = " ".join((importlib.import_module(f"search_spaces.{name}").__doc__ or "").split())
    assert "minutes on 2 cores" in said
    assert "on one GPU (an estimate" in said
    assert space.reference
    points = space.first_points()
    beaten = [point for point in points if space.reference.items() <= point.items()]
    assert beaten  # or the first answer would have nothing to compare with


def test_the_cosine_and_every_cycle_are_tried_before_any_is_drawn() -> None:
    space = load_space("lr_cycles").space
    kinds = [point["schedule.kind"] for point in space.first_points()]
    assert set(kinds) == set(space.search["schedule.kind"].choices)  # type: ignore[union-attr]
    assert space.trials() * space.replicates >= 24
    assert space.stopping == "none"  # all of them get both seeds
