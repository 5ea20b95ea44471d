"""Configuration of `python -m mmcb.attacks.image_hijack`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mmcb.config import Config, UnitFraction

COMMAND = "attacks.image_hijack"
"""The command's name in manifests and the folder of its runs."""


class ImageHijackConfig(Config):
    """Optimise a picture per behavior so that the model begins its answer with the target."""

    model: str | None = None
    """Model family, hub id or checkpoint folder (default: the one the adapter was trained for)."""

    adapter: str = "newest"
    """Adapter of the defended model: a training run or adapter folder, "newest" (the newest
    finished training run), or "none" (attack the base model alone)."""

    target_models: Literal["base", "defended", "both"] = "both"
    """Attack the model without the adapter, with it, or both with the same budget."""

    behaviors: Path | None = None
    """Behavior records (default for the tiny model: data/miniature/evaluation/behaviors.jsonl)."""

    image_folder: Path | None = None
    """Folder of photographs to use in place of the behaviors' own pictures, in order of name."""

    num_behaviors: int | None = Field(default=None, ge=1)
    """Attack only the first so many behaviors (default: all)."""

    max_side: int = Field(default=1024, ge=16)
    """Pictures with a longer side than this are scaled down to it once, before the attack."""

    epsilon: UnitFraction = 32 / 255
    """Largest change of a pixel, as a fraction of its range, on the raw picture."""

    steps: int = Field(default=100, ge=1)
    """Gradient steps per restart; each is one forward-backward pass (the paper's budget: 1000)."""

    step_size: UnitFraction = 1 / 255
    """Length of a step, as a fraction of the pixel range."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the step size goes over a restart; linear and cosine end at a tenth."""

    momentum: float = Field(default=0.0, ge=0.0)
    """Decay of the accumulated gradient (MI-FGSM); 0 for plain sign steps."""

    restarts: int = Field(default=1, ge=1)
    """Number of starts; the second and later ones are random points of the ball."""

    random_start: bool = False
    """Begin the first start at a random point too, instead of the clean picture."""

    stop_loss: float = Field(default=0.01, ge=0.0)
    """Stop a picture once the mean cross-entropy of its target is this low; 0: spend all steps."""

    batch_size: int = Field(default=16, ge=1)
    """Pictures of equal size attacked at once."""

    save_every: int = Field(default=25, ge=1)
    """Save the state of the running batch every so many steps; a killed run resumes from there."""

    seed: int = 0
    """Seed of the random starts."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps, ..."""

    dtype: str = "auto"
    """Precision of the weights: auto, float32, bfloat16, float16."""

    out: Path | None = None
    """Folder of the run (default: runs/attacks.image_hijack/MODEL-TIME). An unfinished run with the
    same settings is resumed."""
