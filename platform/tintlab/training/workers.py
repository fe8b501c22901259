"""Several workers on one model: who is here, gradients averaged (DDP) or everything shared (FSDP).

Nothing else knows how the weights lie. A checkpoint holds whole tensors, so that it is the same
for any number of workers and either way, and one written by four can be continued by one.

Source: torch 2.14 `torch.nn.parallel.DistributedDataParallel` and `torch.distributed.fsdp`
(`fully_shard`: Zhao et al. 2023, PyTorch FSDP, arXiv 2304.11277).
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tintlab.errors import IntegrityError

Tensors = dict[str, Shaped[Tensor, "..."]]


@dataclass(frozen=True)
class Workers:
    """The ranks of torch.distributed, or this process alone."""

    rank: int
    count: int

    @classmethod
    def here(cls) -> "Workers":
        """As torch.distributed was initialised, or one."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls(0, 1)
        return cls(distributed.get_rank(), distributed.get_world_size())

    def add_up(self, sums: Tensor) -> None:
        """Replace by the sum over all workers."""
        if self.count > 1:
            distributed.all_reduce(sums)

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace by what the first worker has."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Until every worker is here."""
        if self.count > 1:
            distributed.barrier()


def joined(
    module: nn.Module,
    blocks: Iterable[nn.Module],
    how: Literal["ddp", "fsdp"],
    workers: Workers,
    device: torch.device,
) -> nn.Module:
    """The module as all workers call it; its gradients are means over them.

    fsdp shares out the parameters of `module` in place, those of each block by themselves, so that
    only one block is whole at a time. One worker has nothing to share and gets the module back.
    """
    if workers.count == 1:
        return module
    if how == "fsdp":
        mesh = init_device_mesh(device.type, (workers.count,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module
    on_gpu = device.type == "cuda"
    return DistributedDataParallel(module, device_ids=[device] if on_gpu else None)


def gradients_kept_local(forward: nn.Module) -> AbstractContextManager[None]:
    """Gradients of a backward pass in here are averaged over the workers by a later one."""
    if isinstance(forward, DistributedDataParallel):
        return forward.no_sync()
    return _without_sync(forward) if isinstance(forward, FSDPModule) else nullcontext()


@contextmanager
def _without_sync(forward: FSDPModule) -> Iterator[None]:
    forward.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        forward.set_requires_gradient_sync(True)


def whole(tensors: Tensors) -> Tensors:
    """The tensors with the shares of all workers put together; every worker must call it."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def whole_on_first(tensors: Tensors, workers: Workers) -> Tensors:
    """The same in the first worker's main memory, and nothing on the others; one at a time, so
    that no device ever holds more than one whole tensor."""
    kept: Tensors = {}
    for name, tensor in tensors.items():
        full = whole({name: tensor})[name]
        if workers.rank == 0:
            kept[name] = full.cpu()
    return kept


def shared_like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor as `model` lies in memory, or this worker's share of it if that is shared."""
    if tensor.shape != model.shape:  # of another model, which is found and named when it is loaded
        return tensor
    if not isinstance(model, DTensor):
        # AdamW's fused kernels pair weights and moments by place in memory (channels last).
        return torch.empty_like(model, dtype=tensor.dtype).copy_(tensor)
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)


def fill(module: nn.Module, tensors: Tensors, source: str) -> None:
    """Put whole tensors into a module, of which each worker takes its share.

    Raises: IntegrityError: names or shapes are not the module's; names `source` and the first.
    """
    own = module.state_dict()
    shared = {k: shared_like(v, own[k]) if k in own else v for k, v in tensors.items()}
    try:
        module.load_state_dict(shared)
    except RuntimeError as error:  # names every key, over many lines
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise IntegrityError(
            f"{source} does not fit the model of this experiment: {first}"
        ) from None


def own_share(tensor: Tensor) -> Tensor:
    """The part of a tensor that this worker holds, in place; all of one that is not shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
