"""Configuration of `python -m mmcb.attacks.check`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.config import Config, UnitFraction

COMMAND = "attacks.check"
"""The command's name in manifests and the folder of its runs."""


class CheckConfig(Config):
    """Attack a few behaviors in several ways, and say whether gradients look masked."""

    model: str | None = None
    """Model family, hub id or checkpoint folder (default: the one the adapter was trained for)."""

    adapter: str = "newest"
    """Adapter of the defended model: a training run or adapter folder, "newest", or "none"."""

    behaviors: Path | None = None
    """Behavior records (default for the tiny model: data/miniature/evaluation/behaviors.jsonl)."""

    num_behaviors: int = Field(default=16, ge=1)
    """How many behaviors to attack, the first ones of the file."""

    objective: Literal["target", "adaptive"] = "target"
    """Attack the defended model by its target alone, or also keep it near the frozen one."""

    target: Literal["behavior", "completion"] = "behavior"
    """The behavior's own target, or that target continued by the base model."""

    target_tokens: int = Field(default=64, ge=1)
    """How many tokens the base model may add to the target (--target completion)."""

    epsilon: UnitFraction = 32 / 255
    """Largest change of a pixel, as a fraction of its range."""

    steps: int = Field(default=100, ge=4)
    """Gradient steps of every attack."""

    step_size: UnitFraction = 1 / 255
    """Length of a step; four times as long where epsilon is 255/255."""

    batch_size: int = Field(default=16, ge=1)
    """Pictures of equal size attacked at once."""

    save_every: int = Field(default=25, ge=1)
    """Save the state of the running batch every so many steps; a killed run resumes from there."""

    seed: int = 0
    """Seed of starts and noise."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps, ..."""

    dtype: str = "auto"
    """Precision of the weights: auto, float32, bfloat16, float16."""

    out: Path | None = None
    """Folder of the run (default: runs/attacks.check/MODEL-TIME)."""

    def hijack(self) -> ImageHijackConfig:
        """The same settings as those of an image hijack that spends its whole budget."""
        shared = self.model_dump(exclude={"out"})
        both = "base" if self.adapter == "none" else "both"
        return ImageHijackConfig(**shared, target_models=both, stop_loss=0.0)
