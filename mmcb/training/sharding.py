"""What processes share: DDP copies the model, FSDP 2 deals its decoder blocks out.

A checkpoint and an adapter are whole tensors, whatever the processes hold: `whole` gathers,
`spread` deals out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcb.models.loading import LoadedModel
from mmcb.training.processes import wants_sharding

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmcb.training.reroute import Rerouter


def place(loaded: LoadedModel, *, accelerator: Accelerator) -> None:
    """Put a model where this process computes, its decoder blocks sharded if so launched (FSDP 2).

    Only these blocks are sharded, one by one. They are most of a model, and every pass runs them;
    the vision tower and the projector are run by passes with images only, and what is gathered must
    be gathered by all processes at once. Embeddings, tower and projector stay whole.

    Args:
        loaded: the model, on the CPU if it is to be sharded; changed in place.
        accelerator: the processes.
    """
    if not wants_sharding():
        return
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    again: Any = FullyShardedDataParallelPlugin().reshard_after_forward  # from the environment
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in loaded.decoder_layers:
        fully_shard(block, mesh=mesh, reshard_after_forward=again)
    sharded = set(loaded.decoder_layers.parameters())
    for module in loaded.model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter not in sharded:
                parameter.data = parameter.data.to(accelerator.device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(accelerator.device))


def parallel(module: Rerouter, *, accelerator: Accelerator) -> Any:
    """The module as all processes run it together: copied (DDP), or with what `place` sharded.

    Args:
        module: computes the losses; changed in place if sharded.
        accelerator: the processes.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    from torch.distributed.tensor import DTensor

    whole_ones = {p for p in module.parameters() if not isinstance(p, DTensor)}
    sharded = next((p for p in module.parameters() if isinstance(p, DTensor)), None)
    if sharded is None:
        return accelerator.prepare(module)
    # The root holds no parameters; it makes the blocks one model, whose gathering can overlap.
    root = fully_shard(module, mesh=sharded.device_mesh, ignored_params=whole_ones)
    # It also runs blocks, and before the first forward: a root must have been run first.
    register_fsdp_forward_method(module, "aim")
    return root


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
