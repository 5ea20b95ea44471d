"""What every attack's command is told: which models, which behaviors, where to. Imports no torch.

A command's own settings follow these; its class says its name and what it can be told anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from mmcb.config import Config


class AttackConfig(Config):
    """Base of the settings of every command that attacks models."""

    command: ClassVar[str]
    """The command's name in manifests, and the folder of its runs."""

    needs_images: ClassVar[bool] = False
    """Whether only models that take images can be attacked."""

    model: str | None = None
    """Model family, hub id or checkpoint folder (default: the one the adapter was trained for)."""

    adapter: str = "newest"
    """Adapter of the defended model: a training run or adapter folder, "newest" (the newest
    finished training run), or "none" (attack the base model alone)."""

    target_models: Literal["base", "defended", "both"] = "both"
    """Attack the model without the adapter, with it, or both with the same budget."""

    behaviors: Path | None = None
    """Behavior records (default for the tiny model: data/miniature/evaluation/behaviors.jsonl)."""

    num_behaviors: int | None = Field(default=None, ge=1)
    """Attack only the first so many behaviors (default: all)."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps, ..."""

    dtype: str = "auto"
    """Precision of the weights: auto, float32, bfloat16, float16."""

    out: Path | None = None
    """Folder of the run (default: runs/COMMAND/MODEL-TIME). An unfinished run with the same
    settings is resumed."""

    @property
    def may_change(self) -> frozenset[str]:
        """Settings that a resumed run may be told anew: they do not change what an attempt is."""
        return frozenset({"batch_size", "save_every", "num_behaviors", "target_models", "device"})


class TextAttackConfig(AttackConfig):
    """Base of the settings of attacks that leave pictures as they are."""

    images: bool = True
    """Show the behaviors' pictures, unchanged. Off: behaviors with a picture are left out."""
