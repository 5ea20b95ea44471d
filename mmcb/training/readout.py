"""Numbers on their way from the device: asked for now, read when the device is at later work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


class Readout:
    """Sums over the processes of some scalars, in one transfer that the host does not wait for."""

    def __init__(self, values: Mapping[str, Tensor], *, accelerator: Accelerator) -> None:
        """Send the values off. All processes must, at once.

        Args:
            values: scalars on the device, by name.
            accelerator: the processes.
        """
        self._names = tuple(values)
        stacked = torch.stack([value.detach().float() for value in values.values()])
        summed: Tensor = accelerator.reduce(stacked, reduction="sum")
        self._values = summed.to("cpu", non_blocking=True)
        self._mark = None
        self.arrived_at = time.perf_counter()
        """When they were there, by `time.perf_counter`; on another device than the CPU as far as
        `wait` can tell."""
        if summed.device.type != "cpu":
            # A mark behind the copy: without it, reading would wait for all that was queued since.
            self._mark = torch.Event(summed.device)
            self._mark.record()

    def wait(self) -> dict[str, float]:
        """The numbers, once they are there."""
        if self._mark is not None:
            self._mark.synchronize()
            self.arrived_at = time.perf_counter()
        return dict(zip(self._names, self._values.tolist(), strict=True))
