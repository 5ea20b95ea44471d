"""What processes share: DDP copies the model, FSDP 2 deals its decoder blocks out.

A checkpoint and an adapter are whole tensors, whatever the processes hold: `whole` gathers,
`spread` deals out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmcb.training.processes import wants_sharding

if TYPE_CHECKING:
    from accelerate import Accelerator


def parallel(module: nn.Module, blocks: nn.ModuleList, *, accelerator: Accelerator) -> Any:
    """The module as all processes run it together: as launched, copied (DDP) or sharded (FSDP 2).

    Only the decoder's blocks are sharded, one by one. They are most of a model, and every pass runs
    them; the vision tower and the projector are run by passes with images only, and what is
    gathered must be gathered by all processes at once. Embeddings, tower and projector stay whole.

    Args:
        module: computes the losses; changed in place if sharded.
        blocks: its decoder blocks.
        accelerator: the processes.
    """
    if not (wants_sharding() and torch.distributed.is_initialized()):
        return accelerator.prepare(module)
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import fully_shard

    again: Any = FullyShardedDataParallelPlugin().reshard_after_forward  # from the environment
    for block in blocks:
        fully_shard(block, reshard_after_forward=again)
    inside = set(blocks.parameters())
    # The root holds no parameters; it makes the blocks one model, whose gathering can overlap.
    fully_shard(module, ignored_params={p for p in module.parameters() if p not in inside})
    return module


def optimizer_for(optimizer: torch.optim.Optimizer, wrapped: Any, accelerator: Accelerator) -> Any:
    """What steps the optimiser: accelerate's own, which knows of scaled losses, but for FSDP."""
    return optimizer if _is_sharded(wrapped) else accelerator.prepare(optimizer)


@contextmanager
def no_sync(wrapped: Any, *, accelerator: Accelerator) -> Iterator[None]:
    """Inside, gradients add up in each process; after it, the next backward averages them."""
    if not _is_sharded(wrapped):
        with accelerator.no_sync(wrapped):
            yield
        return
    wrapped.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        wrapped.set_requires_gradient_sync(True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts. Where it is sharded, all processes must ask at once."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(source: Tensor | None, *, like: Tensor) -> Tensor:
    """The main process's tensor, in every process, held as `like` is. All must call at once.

    Args:
        source: the whole tensor; None in processes that do not have it.
        like: its size, precision, device and sharding.
    """
    from accelerate.utils import broadcast
    from torch.distributed.tensor import DTensor, distribute_tensor

    if source is None:
        source = torch.empty(like.shape)
    local = source.to(device=like.device, dtype=like.dtype)
    if isinstance(like, DTensor):
        return distribute_tensor(local, like.device_mesh, like.placements)
    shared: Tensor = broadcast(local)
    return shared


def _is_sharded(wrapped: Any) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(wrapped, FSDPModule)
