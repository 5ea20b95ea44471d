"""How many tokens a pass may have: measured on two small passes, then counted up to the budget.

What a pass needs beside the weights grows in proportion to its tokens: attention keeps no matrix of
scores. So two short passes of made-up tokens, forward and backward, tell the bytes of a token, and
the budget less what is there without any pass tells how many there may be.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.training.batches import Batch
from mmcb.training.objective import StepTotals
from mmcb.training.reroute import Rerouter
from mmcb.training.schedule import Weights

GIB = 2**30

PROBES = (64, 192)
"""Tokens of the two passes that are measured."""

RESERVE = {"cuda": GIB, "cpu": GIB // 2}
"""Bytes kept free: a CUDA context, workspaces of libraries."""

MARGIN = {"cuda": 1.25, "cpu": 2.0}
"""What is measured is what tensors hold; what an allocator holds is more. On a CPU, where the C
library keeps what was freed, up to 0.8 of it (docs/lab-log.md); on a GPU it is not measured yet."""

OPTIMIZER_BYTES = 20
"""For each trained number, a float32: its gradient, AdamW's two moments, and two of a step's
intermediate results."""

_log = get_logger(__name__)


class MemoryPlan(NamedTuple):
    """How a step is cut to a budget."""

    max_tokens: int | None
    """Most tokens of a pass, padding included; None for no limit."""
    checkpointing: bool
    """Whether blocks run again in the backward pass instead of keeping what they computed."""


NO_LIMIT = MemoryPlan(None, False)


def plan_memory(
    rerouter: Rerouter,
    *,
    budget: int | None,
    longest: int,
    held: int = 0,
    agree: Callable[[int], int] = int,
) -> MemoryPlan:
    """Find the largest pass that a budget allows.

    Args:
        rerouter: the model with its adapter, on its device. If its parameters are sharded, all
            processes must call this: they run the passes together.
        budget: bytes of the device's memory; None for all of a GPU's, and no limit on a CPU.
        longest: tokens of the longest example, which must fit by itself.
        held: bytes that others will hold, such as a cache of images in the CPU's memory.
        agree: gives, for the tokens that this process found, those that all go by.

    Raises:
        MmcbError: the longest example does not fit, not even when blocks run again.
    """
    device = rerouter.device
    if budget is None and device.type != "cuda":
        return NO_LIMIT
    if budget is None:
        budget = torch.cuda.get_device_properties(device).total_memory
    standing = _standing_bytes(rerouter) + held
    most = 0
    for checkpointing in (False, True):
        rerouter.checkpointing = checkpointing
        each, once = _bytes_of_tokens(rerouter)
        most = agree(int((budget - standing - once) / each))
        if most >= longest:
            # In round numbers: what stands varies by a little from run to run on a CPU.
            most = max(longest, most // 64 * 64)
            again = ", blocks run again in the backward pass" if checkpointing else ""
            _log.info(
                "memory: %.1f GiB of %.1f stand, %.2f MiB a token: passes of up to %d tokens%s",
                standing / GIB, budget / GIB, each / 2**20, most, again,
            )  # fmt: skip
            return MemoryPlan(most, checkpointing)
    needed = standing + once + longest * each
    raise MmcbError(
        f"--memory {budget / GIB:.1f}GiB: the model and its longest example, of {longest} tokens,"
        f" need {needed / GIB:.1f} GiB",
        hint=f"lower --max-length (at most {max(0, most)} tokens would fit), or raise --memory",
    )


def _standing_bytes(rerouter: Rerouter) -> int:
    """What is there whatever passes run: weights, gradients, optimiser, the process itself."""
    trained = sum(p.numel() for p in rerouter.parameters() if p.requires_grad)
    if rerouter.device.type == "cuda":
        there = torch.cuda.memory_allocated(rerouter.device)
    else:
        import psutil

        there = psutil.Process().memory_info().rss
    return int(there + trained * OPTIMIZER_BYTES + RESERVE.get(rerouter.device.type, GIB))


def _bytes_of_tokens(rerouter: Rerouter) -> tuple[float, float]:
    """Bytes of each token of a pass, and of a pass by itself, as an allocator needs them."""
    few, many = PROBES
    margin = MARGIN.get(rerouter.device.type, MARGIN["cpu"])
    less, more = (margin * _peak_bytes(rerouter, tokens) for tokens in PROBES)
    each = (more - less) / (many - few)
    return each, max(0.0, less - few * each)


def _peak_bytes(rerouter: Rerouter, tokens: int) -> int:
    """Most bytes that the tensors of one pass hold at once, forward and backward."""
    ids = torch.zeros(1, tokens, dtype=torch.long)
    every = torch.arange(tokens)  # counted by both losses: no real pass holds more
    batch = Batch(ids, torch.ones_like(ids), every, every, None, None, ("probe",))
    rerouter.train()
    with PeakBytes() as peak:
        outputs = rerouter(
            batch.to(rerouter.device), Weights(1.0, 1.0, 1.0), StepTotals(tokens, tokens)
        )
        outputs["loss"].backward()
    for parameter in rerouter.parameters():
        parameter.grad = None
    return peak.most


class PeakBytes(TorchDispatchMode):
    """Inside, watches the storage of every tensor that an operation makes; `most` is the peak."""

    def __init__(self) -> None:
        """Count from nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._alive: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and take note of what it made."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._watch(value.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage in self._alive:
            return
        size = storage.nbytes()
        self._alive[storage] = size
        weakref.finalize(storage, self._forget, size)
        self.now += size
        self.most = max(self.most, self.now)

    def _forget(self, size: int) -> None:
        self.now -= size
