"""Configuration of `python -m mmcb.attacks.gcg`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mmcb.attacks.config import TextAttackConfig


class GCGConfig(TextAttackConfig):
    """Search for tokens behind each request that make the model begin with the target (GCG)."""

    command: ClassVar[str] = "attacks.gcg"

    start_text: str = Field(default=" !" * 20, min_length=1)
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
