"""Configuration of `python -m mmcb.attacks.steering`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mmcb.config import Config

COMMAND = "attacks.steering"
"""The command's name in manifests and the folder of its runs."""


class SteeringConfig(Config):
    """Find the refusal direction of each model; the evaluation then takes it out (ablation)."""

    model: str | None = None
    """Model family, hub id or checkpoint folder (default: the one the adapter was trained for)."""

    adapter: str = "newest"
    """Adapter of the defended model: a training run or adapter folder, "newest" (the newest
    finished training run), or "none" (attack the base model alone)."""

    target_models: Literal["base", "defended", "both"] = "both"
    """Attack the model without the adapter, with it, or both; each has its own direction."""

    behaviors: Path | None = None
    """Behavior records (default for the tiny model: data/miniature/evaluation/behaviors.jsonl)."""

    harmless: Path = Path("data/miniature/evaluation/tasks.jsonl")
    """Task records whose requests are what is not refused."""

    num_behaviors: int | None = Field(default=None, ge=2)
    """Take only the first so many behaviors (default: all)."""

    images: bool = True
    """Show the pictures. Off: behaviors and tasks with a picture are left out."""

    fit_share: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the behaviors that the direction is made of; only the others get attempts."""

    layer: int | None = Field(default=None, ge=1)
    """Index of the hidden states that the direction is taken from (default: 60 % of the depth)."""

    batch_size: int = Field(default=16, ge=1)
    """Requests read at once."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps, ..."""

    dtype: str = "auto"
    """Precision of the weights: auto, float32, bfloat16, float16."""

    out: Path | None = None
    """Folder of the run (default: runs/attacks.steering/MODEL-TIME)."""
