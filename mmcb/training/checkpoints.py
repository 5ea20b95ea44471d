"""Checkpoints: adapter, optimiser and step in one safetensors file, replaced atomically."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmcb.errors import MmcbError
from mmcb.store import write_atomic
from mmcb.training.examples import EncodedExample
from mmcb.training.processes import from_main
from mmcb.training.recipes import Recipe
from mmcb.training.sharding import spread, whole

if TYPE_CHECKING:
    from accelerate import Accelerator

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of a parameter, besides the step."""


def fingerprint_of(
    recipe: Recipe,
    examples: Iterable[EncodedExample],
    *,
    seed: int,
    revision: str | None,
) -> str:
    """Hash of all that decides a run's trajectory.

    Another split of its steps into batches, or among processes, has the same one.

    Args:
        recipe: how to train.
        examples: on what, in their order.
        seed: seed of the run.
        revision: of the model's weights, where it is known.
    """
    settings = [recipe.trajectory(), seed, revision]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for example in examples:
        digest.update(f"{example.id}\0{example.kind}\0{example.mask_start}\n".encode())
        digest.update(array("q", example.input_ids).tobytes())
    return digest.hexdigest()[:16]


def save_checkpoint(
    path: Path,
    *,
    step: int,
    fingerprint: str,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> None:
    """Write the state after an optimiser step; a kill leaves the old file or the new one whole.

    The file is the same however many processes there are, and however they share the parameters.

    Args:
        path: the file.
        step: optimiser steps done.
        fingerprint: of the run: `fingerprint_of`.
        parameters: what trains, by name.
        optimizer: the AdamW that trains it.
        accelerator: the processes; all of them must call this, and the main one writes.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors[f"weight/{name}"] = parameter.detach()
        tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS}
    cpu = {name: whole(tensor).cpu().contiguous() for name, tensor in tensors.items()}
    if accelerator.is_main_process:
        write_atomic(path, save(cpu, metadata={"step": str(step), "fingerprint": fingerprint}))


def load_checkpoint(
    path: Path,
    *,
    fingerprint: str,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> int:
    """Put a saved state back.

    Args:
        path: the file; without it, training starts at the beginning.
        fingerprint: of the run that goes on: `fingerprint_of`.
        parameters: what trains, by name; overwritten.
        optimizer: its AdamW; overwritten.
        accelerator: the processes; the main one reads, and all get their share.

    Returns:
        Optimiser steps done; 0 without a checkpoint.

    Raises:
        MmcbError: the file is damaged, or of another model, recipe or data.
    """
    step = from_main(accelerator, lambda: _checked_step(path, fingerprint, parameters))
    if step == 0:
        return 0
    with _opened(path) if accelerator.is_main_process else nullcontext() as file:
        for name, parameter in parameters.items():
            parts = {
                part: spread(file and file.get_tensor(f"{part}/{name}"), like=parameter)
                for part in ("weight", *MOMENTS)
            }
            with torch.no_grad():
                parameter.copy_(parts.pop("weight"))
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **parts}
    return step


def _checked_step(path: Path, fingerprint: str, parameters: Iterable[str]) -> int:
    """Steps done at this run's checkpoint; 0 without one.

    Raises:
        MmcbError: it is damaged, or another run's.
    """
    step = step_of(path)
    if step == 0:
        return 0
    with _opened(path) as file:
        expected = {f"{part}/{name}" for part in ("weight", *MOMENTS) for name in parameters}
        theirs = file.metadata()["fingerprint"]
        if theirs != fingerprint or set(file.keys()) != expected:
            raise MmcbError(
                f"{path} is the checkpoint of another run ({theirs}; this one is {fingerprint}):"
                " model, recipe, seed or data differ",
                hint="give --out another folder, or delete the file to begin from step 1",
            )
    return step


def step_of(path: Path) -> int:
    """Optimiser steps done at a checkpoint; 0 without one.

    Raises:
        MmcbError: the file is damaged, or no checkpoint.
    """
    if not path.is_file():
        return 0
    with _opened(path) as file:
        return int(file.metadata()["step"])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A checkpoint to read tensors and metadata from."""
    from safetensors import SafetensorError, safe_open

    hint = "delete it to begin from step 1, or give --out another folder"
    try:
        file: Any = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise MmcbError(f"{path} is damaged: {error}", hint=hint) from error
    with file:
        metadata = file.metadata() or {}
        if not metadata.get("step", "").isdigit() or "fingerprint" not in metadata:
            raise MmcbError(f"{path} is not a checkpoint of mmcb.training", hint=hint)
        yield file


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
