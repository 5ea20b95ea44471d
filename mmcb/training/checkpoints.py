"""Checkpoints: adapter, optimiser and step in one safetensors file, replaced atomically."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mmcb.errors import MmcbError
from mmcb.store import write_atomic

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of a parameter, besides the step."""


def save_checkpoint(
    path: Path,
    *,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the state after an optimiser step; a kill leaves the old file or the new one whole.

    Args:
        path: the file.
        step: optimiser steps done.
        parameters: what trains, by name.
        optimizer: the AdamW that trains it.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors[f"weight/{name}"] = parameter.detach()
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS}
    cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(cpu, metadata={"step": str(step)}))


def load_checkpoint(
    path: Path, *, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> int:
    """Put a saved state back.

    Args:
        path: the file; without it, training starts at the beginning.
        parameters: what trains, by name; overwritten.
        optimizer: its AdamW; overwritten.

    Returns:
        Optimiser steps done; 0 without a checkpoint.

    Raises:
        MmcbError: the file is of another model or recipe.
    """
    from safetensors import safe_open

    step = step_of(path)
    if step == 0:
        return 0
    with safe_open(path, framework="pt") as file:
        expected = {f"{part}/{name}" for part in ("weight", *MOMENTS) for name in parameters}
        if set(file.keys()) != expected:
            raise MmcbError(f"{path} is of another model or recipe", hint="give another --out")
        for name, parameter in parameters.items():
            with torch.no_grad():
                parameter.copy_(file.get_tensor(f"weight/{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                **{m: file.get_tensor(f"{m}/{name}").to(parameter) for m in MOMENTS},
            }
    return step


def step_of(path: Path) -> int:
    """Optimiser steps done at a checkpoint; 0 without one."""
    from safetensors import safe_open

    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def cut_metrics(path: Path, *, step: int) -> None:
    """Drop the lines of steps after `step`, which will be run again, and a torn last line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break  # torn by a kill
    write_atomic(path, "".join(kept))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; a kill frees it.

    Raises:
        MmcbError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MmcbError(
                f"another process is training in {folder}",
                hint="wait for it, or give another --out",
            ) from error
        yield
