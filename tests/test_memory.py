"""Saving memory changes no number: checkpointed blocks and chunked losses equal the plain path."""

import copy
from collections import Counter

import pytest
import torch
from test_losses import statistics
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tintlab.config import ExperimentConfig
from tintlab.model.colorizer import Colorizer
from tintlab.model.recompute import ATTENTION
from tintlab.training.objective import Objective

BASE = ExperimentConfig().replaced(
    {
        "model.depth": 2,
        "model.encoder_attention_blocks": 1,
        "model.decoder_attention_blocks": 1,
        "bins.per_channel": 8,
        "loss.smoothing_sigma_ab": 10.0,
        "loss.rebalance": 0.5,
    }
)
SAVINGS = {"training.activation_checkpointing": True, "training.loss_chunks": 5}


def stepped(
    config: ExperimentConfig, bf16: bool = False
) -> tuple[Tensor, dict[str, Tensor], Colorizer]:
    """One training step's loss and gradients, from weights, photos and dropout of one seed."""
    torch.manual_seed(0)
    model = Colorizer(config.model, config.bins)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    L = 100 * torch.rand(2, 1, 24, 20)
    ab = 80 * torch.rand(2, 2, 24, 20) - 40
    if config.training.activation_checkpointing:
        model.recompute_activations()
    objective = Objective(model, config, statistics())
    torch.manual_seed(1)  # dropout
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        total, terms = objective(L, ab)
    total.backward()
    return terms, {name: p.grad for name, p in model.named_parameters()}, model


@pytest.mark.parametrize("saving", [{key: value} for key, value in SAVINGS.items()] + [SAVINGS])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model.dropout": 0.3},
        {"model.encoder_norm": "batch"},
        {"bins.kind": "joint", "bins.joint_step": 20.0},
        {"loss.perceptual": 1.0, "loss.perceptual_net": "random_features"},
    ],
    ids=["plain", "dropout", "batch-norm", "joint", "perceptual"],
)
def test_gradients_are_those_of_the_plain_path(options, saving):
    config = BASE.replaced(options)
    terms, gradients, model = stepped(config)
    saved_terms, saved_gradients, saved_model = stepped(config.replaced(saving))
    torch.testing.assert_close(saved_terms, terms, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        assert gradient.any(), name
        torch.testing.assert_close(saved_gradients[name], gradient, rtol=1e-5, atol=1e-5)
    # Computing a block twice must not move batch norm's statistics twice.
    for (name, buffer), again in zip(model.named_buffers(), saved_model.buffers(), strict=True):
        assert torch.equal(buffer, again), name


def test_under_bf16_the_two_paths_stay_within_rounding():
    # bfloat16 has 8 bits: chunks sum weight gradients in another order. 2 % of the largest
    # gradient of each weight, and neither path much farther from fp32; how far exactly depends on
    # the number of threads, which also add in another order.
    config = BASE.replaced({"model.dropout": 0.3})
    _, exact, _ = stepped(config)
    _, plain, _ = stepped(config, bf16=True)
    _, saved, _ = stepped(config.replaced(SAVINGS), bf16=True)
    for name in exact:
        scale = plain[name].abs().max()
        assert (saved[name] - plain[name]).abs().max() <= 0.02 * scale, name
    errors = [
        torch.cat([(got[name] - exact[name]).flatten() for name in exact]).norm()
        for got in (plain, saved)
    ]
    assert errors[1] <= 1.5 * errors[0]


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
        return result


class Dear(TorchDispatchMode):
    """How often each operation ran that is not worth computing twice."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default and args[1][0, 0].numel() > 1:
            self.calls["convolution"] += 1
        if func in ATTENTION:
            self.calls["attention"] += 1
        return func(*args, **(kwargs or {}))


def test_convolutions_and_attention_are_computed_once():
    counted = []
    for options in ({}, {"training.activation_checkpointing": True}):
        with Dear() as dear:
            stepped(BASE.replaced(options))
        counted.append(dear.calls)
    assert counted[0] == counted[1]
    assert counted[0]["attention"] == 2
    assert counted[0]["convolution"] >= 2 * BASE.model.depth


def test_no_tensor_as_large_as_the_logits_ever_exists():
    config = BASE.replaced({"bins.per_channel": 256, "loss.rebalance": 0.0})
    logits = 2 * 2 * 256 * 6 * 5  # (B, C, K, h, w) of `stepped`
    with LargestTensor() as plain:
        stepped(config)
    with LargestTensor() as chunked:
        stepped(config.replaced({"training.loss_chunks": 10}))
    assert plain.elements >= logits
    # 256 x 256 smoothing targets and the largest weights are larger than a tenth of the logits.
    assert chunked.elements <= max(logits // 5, 256 * 256)


def test_more_chunks_than_positions_are_as_many_as_positions():
    terms, _, _ = stepped(BASE)
    fine, _, _ = stepped(BASE.replaced({"training.loss_chunks": 4096}))
    torch.testing.assert_close(fine, terms, rtol=1e-5, atol=1e-5)


def test_the_copy_that_is_evaluated_needs_no_gradient_and_no_second_pass():
    model = Colorizer(BASE.model, BASE.bins)
    model.recompute_activations()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    calls = []
    average.decoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        average(torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 2, 2, dtype=torch.int64))
    assert calls == [1]
