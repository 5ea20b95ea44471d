"""The weights of the losses, by optimiser step.

Source: Zou et al. 2024 (arXiv 2406.04313), algorithm 1: the reroute weight is alpha (1 - t / 2T)
and the retain weight alpha t / 2T at step t of T. The authors' code counts forward calls and fixes
2T at 300; here t counts optimiser steps, whatever the gradient accumulation, and the horizon 2T is
part of the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of one optimiser step."""

    reroute: float
    retain: float
    escape: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Weights as a function of the optimiser step.

    Attributes:
        reroute_weight: reroute weight at t = 0; falls to 0 at t = horizon.
        retain_weight: retain weight at t = horizon; rises from 0 at t = 0.
        horizon: 2T, in optimiser steps.
        retain_warmup_steps: during these first steps the retain weight is 0; 0 for the paper's
            schedule.
        escape_weight: weight of the escape loss at t = 0.
        escape_steps: the escape weight falls linearly to 0 at this step; 0 for the paper's recipe.
    """

    reroute_weight: float
    retain_weight: float
    horizon: int
    retain_warmup_steps: int = 0
    escape_weight: float = 0.0
    escape_steps: int = 0

    def at(self, step: int) -> Weights:
        """Weights at optimiser step t.

        Args:
            step: t. 0 is the state before training; the trainer's first step is t = 1, its last
                t = T, as in the authors' code.
        """
        progress = min(max(step, 0) / self.horizon, 1.0)
        return Weights(
            reroute=self.reroute_weight * (1 - progress),
            retain=self.retain_weight * progress if step > self.retain_warmup_steps else 0.0,
            escape=self._escape_at(step),
        )

    def _escape_at(self, step: int) -> float:
        if step >= self.escape_steps:
            return 0.0
        return self.escape_weight * (1 - max(step, 0) / self.escape_steps)
