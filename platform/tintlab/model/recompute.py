"""Activation checkpointing: keep a block's inputs, and compute the rest again in the backward pass.

Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def called(block: Callable[..., Any], *arguments: Any, recompute: bool) -> Any:
    """`block(*arguments)`; with `recompute`, what it computes inside is not kept for backward.

    The second time draws the same dropout, under the same autocast, and leaves the running
    statistics of batch norm alone: outputs, gradients and buffers are those of a plain call.
    """
    if not (recompute and torch.is_grad_enabled()):
        return block(*arguments)
    norms = (
        [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
        if isinstance(block, nn.Module)
        else []
    )

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(norms)

    return checkpoint(block, *arguments, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Momentum 0 keeps running means; taking them away would change what autograd saves."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
