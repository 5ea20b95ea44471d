"""Configuration of `python -m mmcb.attacks.gcg`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mmcb.config import Config

COMMAND = "attacks.gcg"
"""The command's name in manifests and the folder of its runs."""


class GCGConfig(Config):
    """Search for tokens behind each request that make the model begin with the target (GCG)."""

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

    images: bool = True
    """Show the behaviors' pictures, unchanged. Off: behaviors with a picture are left out."""

    start_text: str = " !" * 20
    """The tokens to begin with; it says how many there are."""

    steps: int = Field(default=500, ge=1)
    """Steps; each is one forward-backward pass and a forward pass a candidate."""

    search_width: int = Field(default=512, ge=1)
    """Candidates a step."""

    top_k: int = Field(default=256, ge=1)
    """Candidates take a position's token from so many with the steepest gradient."""

    num_replace: int = Field(default=1, ge=1)
    """Tokens that a candidate changes."""

    ascii_only: bool = True
    """Search among tokens of printable ASCII alone."""

    stop_loss: float = Field(default=0.01, ge=0.0)
    """Stop a behavior once the mean cross-entropy of its target is this low; 0: spend all steps."""

    batch_size: int = Field(default=128, ge=1)
    """Candidates evaluated at once."""

    save_every: int = Field(default=10, ge=1)
    """Save the state of the running search every so many steps; a killed run resumes from there."""

    seed: int = 0
    """Seed of the candidates."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps, ..."""

    dtype: str = "auto"
    """Precision of the weights: auto, float32, bfloat16, float16."""

    out: Path | None = None
    """Folder of the run (default: runs/attacks.gcg/MODEL-TIME). An unfinished run with the same
    settings is resumed."""
