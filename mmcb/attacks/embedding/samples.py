"""Best of k: the iterates worth judging, gathered while the attack runs.

Source: Schwinn and Geisler (arXiv 2407.15902): up to ten generations a behavior, taken where the
loss is below 1e-3, at least five steps apart.

Shapes: B rows, A active ones, k kept iterates, N positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmcb.attacks.core import Losses, Moment, Objective


class SampledObjective:
    """An objective that remembers iterates with a low score, far enough apart.

    Args:
        inner: the objective.
        like: vectors of all rows, for their shape, on the model's device.
        samples: k.
        loss: keep iterates whose score is at most this.
        distance: evaluations between two that are kept.
    """

    def __init__(
        self,
        inner: Objective,
        like: Float[Tensor, "B N D"],
        *,
        samples: int,
        loss: float,
        distance: int,
    ) -> None:
        self._inner = inner
        self._loss, self._distance = loss, distance
        rows = len(like)
        self._kept = like.new_zeros(rows, samples, *like.shape[1:])
        self._scores = like.new_full((rows, samples), float("nan"))
        self._count = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self._last = torch.full_like(self._count, -distance)

    @property
    def passes(self) -> int:
        """The inner objective's."""
        return self._inner.passes

    def __call__(
        self, candidates: Float[Tensor, "A N D"], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Losses:
        """The inner objective's losses; what is good enough is remembered."""
        losses = self._inner(candidates, rows, moment)
        scores = losses.score.detach()
        now = moment.restart * (moment.steps + 1) + moment.step
        room = self._count[rows] < self._kept.shape[1]
        apart = now - self._last[rows] >= self._distance
        good = room & apart & (scores <= self._loss)
        chosen = rows[good]
        at = self._count[chosen]
        self._kept[chosen, at] = candidates.detach()[good].to(self._kept)
        self._scores[chosen, at] = scores[good].to(self._scores)
        self._count[chosen] += 1
        self._last[chosen] = now
        return losses

    def kept(self, row: int) -> list[tuple[Float[Tensor, "N D"], float]]:
        """The row's iterates with their scores, in the order they came."""
        count = int(self._count[row])
        return [(self._kept[row, i].cpu(), float(self._scores[row, i])) for i in range(count)]

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a continuation needs."""
        return {
            name: getattr(self, f"_{name}").cpu().clone()
            for name in ("kept", "scores", "count", "last")
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        for name in ("kept", "scores", "count", "last"):
            setattr(self, f"_{name}", state[name].to(self._kept.device).clone())
