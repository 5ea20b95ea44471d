"""What every optimised attack leaves behind besides its attempts: curves, and states to go on from.

In a run's folder: `curves.jsonl`, a LossCurve per attempt; `state/*.safetensors`, batches under
way, gone when they are done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmcb.attacks.results import PGDResult
from mmcb.models.loading import LoadedModel
from mmcb.records import Record, Scalar
from mmcb.store import record_id, write_atomic


class LossCurve(Record):
    """The losses of every iterate of one attack; its id is the attempt's."""

    behavior_id: str
    model: str
    """`base` or `defended`."""
    steps_per_restart: int = Field(ge=1)
    """Gradient steps of a restart; restart r begins at index r * (steps_per_restart + 1)."""
    losses: tuple[float | None, ...]
    """Mean cross-entropy of the target after 0, 1, 2, ... steps (of the 8-bit picture); None where
    it was not a finite number. Shorter than the budget where the attack stopped early."""


def environment(loaded: LoadedModel) -> dict[str, Scalar]:
    """What else moves the result: libraries, the processor's backend, device and precision."""
    import PIL
    import torchvision
    import transformers

    facts: dict[str, Scalar] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "base_model": loaded.name,
    }
    if loaded.is_vlm:
        processor = loaded.processor.image_processor
        facts |= {
            "torchvision": torchvision.__version__,
            "pillow": PIL.__version__,
            "image_backend": str(getattr(processor, "backend", type(processor).__name__)),
        }
    return facts


def result_measures(result: PGDResult) -> dict[str, float]:
    """What the loop measured."""
    return {
        "loss_start": result.start_loss,
        "loss_float": result.best_loss,
        "passes": float(result.passes),
        "stopped_step": float(result.stopped_step),
    }


def make_curve(
    id_: str, *, behavior_id: str, model: str, result: PGDResult, steps: int
) -> LossCurve:
    """The loss curve of an attempt, or of the one picture behind many."""
    return LossCurve(
        id=id_,
        behavior_id=behavior_id,
        model=model,
        steps_per_restart=steps,
        losses=tuple(round(x, 6) if math.isfinite(x) else None for x in result.curve),
    )


def state_path(run: Path, attempt_ids: Sequence[str]) -> Path:
    """The state file of a batch, named by exactly the attempts it makes."""
    return run / "state" / f"{record_id(*attempt_ids)}.safetensors"


def save_state(path: Path, state: dict[str, Tensor]) -> None:
    """Write the state of a batch under way, whole or not at all."""
    write_atomic(path, save(state))


def load_state(path: Path) -> dict[str, Tensor] | None:
    """The saved state of a batch; None when there is none or the file is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
