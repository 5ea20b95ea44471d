"""The step rules: from a gradient to a move, with the memory a rule needs.

Sources: sign steps, HarmBench's MultiModalPGD; momentum on normalised gradients, MI-FGSM (arXiv
1710.06081); SGD with a clipped norm and Adam with eps 1e-7, image-hijacks (arXiv 2309.00236);
halving, the shortcut attack of arXiv 2410.03489.

Shapes: A active rows, P the shape of one row's parameters.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal["sign", "sgd", "adam"]
StepSchedule = Literal["constant", "linear", "cosine", "halving"]

_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-7
FLOOR = 0.1
"""The falling schedules end at this share of the step size."""


@dataclass(frozen=True, slots=True)
class StepRule:
    """How parameters move.

    Args:
        step_size: length of a sign step, or the learning rate of the others, in the parameters'
            own unit (for pixels a fraction of their range).
        kind: sign steps, plain gradient steps, or Adam.
        momentum: decay of the accumulated gradient (not for Adam, which has its own).
        clip: largest L2 norm of a row's gradient for `sgd`; 0: no limit.
        schedule: the step size over a restart. `linear` and `cosine` end at a tenth; `halving`
            halves four times, at equal distances, down to a tenth.
    """

    step_size: float
    kind: Kind = "sign"
    momentum: float = 0.0
    clip: float = 0.0
    schedule: StepSchedule = "constant"

    def step_size_at(self, step: int, steps: int) -> float:
        """Step size of gradient step `step`, counted from 0, of `steps` in a restart."""
        done = step / max(1, steps - 1)
        if self.schedule == "linear":
            return self.step_size * (1.0 - (1.0 - FLOOR) * done)
        if self.schedule == "cosine":
            half = (1.0 - FLOOR) / 2
            return self.step_size * (FLOOR + half * (1.0 + math.cos(math.pi * done)))
        if self.schedule == "halving":
            return self.step_size * max(FLOOR, 0.5 ** min(4, 5 * step // max(1, steps)))
        return self.step_size

    @property
    def memory(self) -> tuple[str, ...]:
        """Names of the tensors, shaped like the parameters, that the rule remembers."""
        if self.kind == "adam":
            return ("first", "second")
        return ("momentum",) if self.momentum else ()

    def move(
        self,
        gradient: Float[Tensor, "A ..."],
        memory: MutableMapping[str, Tensor],
        *,
        step: int,
        steps: int,
    ) -> Float[Tensor, "A ..."]:
        """What to add to the parameters; `memory` (the active rows') is brought up to date.

        A row whose loss overflowed has no direction; it stays where it is.
        """
        gradient = torch.nan_to_num(gradient.float(), nan=0.0, posinf=0.0, neginf=0.0)
        size = self.step_size_at(step, steps)
        if self.kind == "adam":
            return -size * self._adam(gradient, memory, step)
        if self.kind == "sgd":
            return -size * self._accumulated(self._clipped(gradient), memory)
        if self.momentum:
            gradient = gradient / _per_row(gradient.abs().flatten(1).mean(1), gradient)
        return -size * self._accumulated(gradient, memory).sign()

    def _accumulated(self, gradient: Tensor, memory: MutableMapping[str, Tensor]) -> Tensor:
        if not self.momentum:
            return gradient
        memory["momentum"] = self.momentum * memory["momentum"] + gradient
        return memory["momentum"]

    def _clipped(self, gradient: Tensor) -> Tensor:
        if not self.clip:
            return gradient
        norm = gradient.flatten(1).norm(dim=1)
        return gradient * _per_row((self.clip / norm.clamp_min(1e-30)).clamp_max(1.0), gradient)

    def _adam(self, gradient: Tensor, memory: MutableMapping[str, Tensor], step: int) -> Tensor:
        first, second = _BETAS
        memory["first"] = first * memory["first"] + (1 - first) * gradient
        memory["second"] = second * memory["second"] + (1 - second) * gradient.square()
        mean = memory["first"] / (1 - first ** (step + 1))
        spread = (memory["second"] / (1 - second ** (step + 1))).sqrt()
        return mean / (spread + _ADAM_EPS)


def _per_row(values: Float[Tensor, " A"], like: Tensor) -> Tensor:
    """One number a row, never zero, shaped to be multiplied with `like`."""
    return values.clamp_min(1e-30).reshape(-1, *[1] * (like.ndim - 1))
