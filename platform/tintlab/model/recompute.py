"""Activation checkpointing: keep what was dear, and compute the rest again in the backward pass.

Of a block, its inputs are kept and what its wide convolutions and its attention gave: one plane
each, which took most of the block's time. Norms, activations, gates and layers of one position are
computed again: they are most of what a plain call keeps, and take little.

Sources: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174;
Korthikanti et al. 2022, Reducing Activation Recomputation in Large Transformer Models, arXiv
2205.05198 (recomputing selectively).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

ATTENTION = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
)
"""What F.scaled_dot_product_attention becomes, as the device has it."""


def called(block: Callable[..., Any], *arguments: Any, recompute: bool) -> Any:
    """`block(*arguments)`; with `recompute`, what it computes inside is not kept for backward, but
    for what convolutions and attention give.

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

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        keeping, again = create_selective_checkpoint_contexts(_dear)
        return keeping, _both(_statistics_kept(norms), again)

    return checkpoint(block, *arguments, use_reentrant=False, context_fn=contexts)


def _dear(
    context: SelectiveCheckpointContext, operation: object, *arguments: Any, **options: Any
) -> CheckpointPolicy:
    """Whether a result is kept."""
    wide = operation is torch.ops.aten.convolution.default and arguments[1][0, 0].numel() > 1
    if wide or operation in ATTENTION:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _both(*contexts: AbstractContextManager[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


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
