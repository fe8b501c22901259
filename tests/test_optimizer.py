"""AdamW, its state by name, and the moving average of the weights."""

import pytest
import torch
from torch import nn

from tintlab.errors import IntegrityError
from tintlab.model.colorizer import Colorizer
from tintlab.settings import BinsConfig, ModelConfig, OptimizerConfig
from tintlab.training.optimizer import adamw, ema_decay, load_moments, moments_by_name, update_ema


def test_decay_is_for_matrices_and_kernels_only():
    model = Colorizer(ModelConfig(depth=1), BinsConfig(per_channel=8))
    optimizer = adamw(model, OptimizerConfig())
    decays = {
        name: group["weight_decay"]
        for group in optimizer.param_groups
        for name in group["param_names"]
    }
    shapes = {name: weight.ndim for name, weight in model.named_parameters()}
    assert decays.keys() == shapes.keys()
    assert {name for name, decay in decays.items() if decay > 0} == {
        name for name, ndim in shapes.items() if ndim >= 2
    }
    assert 0.0 in decays.values()


def test_moments_of_another_model_are_refused():
    model, other = nn.Linear(3, 2), nn.Bilinear(3, 3, 2)
    optimizer = adamw(model, OptimizerConfig())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    moments = {f"{name}s": tensor for name, tensor in moments_by_name(optimizer).items()}
    with pytest.raises(IntegrityError, match=r"no weight for the checkpoint's exp_avg\.biass"):
        load_moments(adamw(other, OptimizerConfig()), moments)


def test_the_decay_of_the_average_warms_up():
    config = OptimizerConfig(ema_decay=0.99)
    assert ema_decay(0, config) == 0.1
    assert ema_decay(90, config) == 91 / 100
    assert ema_decay(10_000, config) == 0.99


def test_the_average_moves_weights_and_copies_buffers():
    average, model = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model.weight.data = torch.tensor([3.0, 5.0])
    model.running_mean.fill_(7.0)
    model.num_batches_tracked.fill_(9)
    update_ema(average, model, decay=0.75)
    assert average.weight.tolist() == [1.5, 2.0]  # three quarters of 1, and one of 3 or 5
    assert average.running_mean.tolist() == [7.0, 7.0]
    assert average.num_batches_tracked == 9
