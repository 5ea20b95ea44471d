"""Configuration of `python -m mmcb.attacks.check`. Imports no torch: `--help` is instant."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mmcb.attacks.config import AttackConfig
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.config import UnitFraction


class CheckConfig(AttackConfig):
    """Attack a few behaviors in several ways, and say whether gradients look masked."""

    command: ClassVar[str] = "attacks.check"
    needs_images: ClassVar[bool] = True

    target_models: Literal["base", "both"] = "both"
    """Check the attack on the base model alone, or on both."""

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

    @property
    def may_change(self) -> frozenset[str]:
        """Settings that a resumed run may be told anew: none, since checks compare attacks."""
        return frozenset()

    def hijack(self) -> ImageHijackConfig:
        """The same settings as those of an image hijack that spends its whole budget."""
        return ImageHijackConfig(**self.model_dump(exclude={"out"}), stop_loss=0.0)
