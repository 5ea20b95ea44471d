"""Configuration of `python -m mmcb.attacks.steering`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from mmcb.attacks.config import TextAttackConfig


class SteeringConfig(TextAttackConfig):
    """Find the refusal direction of each model; the evaluation then takes it out (ablation)."""

    command: ClassVar[str] = "attacks.steering"

    harmless: Path = Path("data/miniature/evaluation/tasks.jsonl")
    """Task records whose requests are what is not refused."""

    num_behaviors: int | None = Field(default=None, ge=2)
    """Take only the first so many behaviors (default: all)."""

    fit_share: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the behaviors that the direction is made of; only the others get attempts."""

    layer: int | None = Field(default=None, ge=1)
    """Index of the hidden states that the direction is taken from (default: 60 % of the depth)."""

    batch_size: int = Field(default=16, ge=1)
    """Requests read at once."""

    @property
    def may_change(self) -> frozenset[str]:
        """Settings that a resumed run may be told anew; the direction depends on the behaviors."""
        return frozenset({"batch_size", "device"})
