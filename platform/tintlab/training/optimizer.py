"""AdamW with decay where it belongs, its state by name, and the moving average of the weights."""

import torch
from torch import nn
from torch.optim import AdamW

from tintlab.errors import IntegrityError
from tintlab.settings import OptimizerConfig
from tintlab.training.workers import Tensors, own_share, shared_like

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def adamw(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """AdamW that decays matrices and kernels only, never biases, gains and other vectors."""
    weights = list(model.named_parameters())
    matrices = [(name, weight) for name, weight in weights if weight.ndim >= 2]
    vectors = [(name, weight) for name, weight in weights if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    # lr is set before every step. fused: one pass over the weights instead of one per operation.
    return AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def moments_by_name(optimizer: AdamW) -> Tensors:
    """AdamW's moments under the names of their weights; needs an optimizer of named weights."""
    tensors: Tensors = {}
    for group in optimizer.param_groups:
        for name, weight in zip(group["param_names"], group["params"], strict=True):
            for moment, tensor in optimizer.state.get(weight, {}).items():
                tensors[f"{moment}.{name}"] = tensor
    return tensors


def load_moments(optimizer: AdamW, tensors: Tensors) -> None:
    """The inverse of moments_by_name, onto an optimizer of the same weights; whole tensors."""
    saved = optimizer.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, Tensors] = {}
    known: set[str] = set()
    for group in saved["param_groups"]:
        for name, index in zip(group["param_names"], group["params"], strict=True):
            keys = {moment: f"{moment}.{name}" for moment in _MOMENTS}
            known.update(keys.values())
            if keys["step"] in tensors:
                moments[index] = {
                    moment: tensors[key]
                    if moment == "step"
                    else shared_like(tensors[key], weights[index])
                    for moment, key in keys.items()
                }
    if unknown := sorted(set(tensors) - known):
        raise IntegrityError(f"the optimizer has no weight for the checkpoint's {unknown[0]}")
    optimizer.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})


def ema_decay(updates: int, optimizer: OptimizerConfig) -> float:
    """Decay of the averaged weights at their next update, after `updates` of them.

    It warms up, so that the initial weights are forgotten sooner than 1 / (1 - decay) steps.

    Source: TensorFlow's ExponentialMovingAverage, argument num_updates.
    """
    return min(optimizer.ema_decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * model for weights; buffers are copied.

    Of what this worker holds: both modules are shared out alike, or not at all.
    """
    averaged, current = ([own_share(p) for p in m.parameters()] for m in (ema, model))
    torch._foreach_lerp_(averaged, current, 1.0 - decay)
    for kept, buffer in zip(ema.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)
