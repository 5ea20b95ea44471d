"""What a step takes and holds, and the table of several variants."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

_PACKAGES = ("torch", "transformers", "torchvision", "pillow")


@dataclass
class Timer:
    """Seconds of the steps of one variant: of the clock, and of this process's CPU."""

    device: torch.device
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, step: Callable[[], object]) -> None:
        """Run a step and note what it took."""
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        self._wait()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def rates(self, passes: int) -> tuple[float, float]:
        """Passes a second by clock and by CPU time: medians, without the step of warm-up."""
        wall, cpu = (statistics.median(seconds[1:]) for seconds in (self.wall, self.cpu))
        return passes / wall, passes / cpu

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def held_mib(step: Callable[[], object], model: nn.Module) -> float:
    """MiB that a step's forward pass keeps for its backward pass, weights not counted."""
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(held.values()) / 2**20


def print_rates(rates: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """A row for each variant; hands back how many times faster the last is than the one before."""
    print("| variant | passes/s, clock | passes/s, CPU time |")
    print("|---|--:|--:|")
    for name, (wall, cpu) in rates.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    *_, theirs, ours = rates.values()
    ratio = ours[0] / theirs[0], ours[1] / theirs[1]
    print(f"| ratio of the last two | {ratio[0]:.2f} | {ratio[1]:.2f} |")
    return ratio


def print_result(
    rates: Mapping[str, tuple[float, float]],
    ratio: tuple[float, float],
    *,
    device: torch.device,
    **known: Any,
) -> None:
    """The last line: one JSON object."""
    result = {
        "ratio": round(ratio[0], 3),
        "ratio_cpu_time": round(ratio[1], 3),
        "passes_per_second": {name: round(wall, 3) for name, (wall, _) in rates.items()},
        "passes_per_cpu_second": {name: round(cpu, 3) for name, (_, cpu) in rates.items()},
        **known,
        "device": _device(device),
        "threads": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
    }
    print(json.dumps(result))


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"
