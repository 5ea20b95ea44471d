"""One picture for many behaviors: every loss is a mean over some of them, drawn anew each step.

Sources: image-hijacks (minibatches of contexts), Qi et al. (arXiv 2306.13213: 8 targets a step).

Shapes: A rows (pictures; usually 1), N behaviors a step, H x W raw picture.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmcb.attacks.core import Losses, Moment, Objective


class UniversalObjective:
    """Mean loss of a picture over `batch` of the behaviors.

    Args:
        behaviors: the objective whose rows are the behaviors.
        count: how many behaviors it has.
        batch: behaviors a step, drawn without replacement; all of them if there are no more.
    """

    def __init__(self, behaviors: Objective, *, count: int, batch: int) -> None:
        self._behaviors = behaviors
        self._count = count
        self._batch = min(batch, count)

    @property
    def passes(self) -> int:
        """Every behavior of a step counts as its own, though the picture is run once for all.

        Budgets of one picture for many behaviors and of a picture for each compare that way.
        """
        return self._batch * self._behaviors.passes

    def __call__(
        self, images: Float[Tensor, "A 3 H W"], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Losses:
        """Mean losses; the behaviors drawn are the same for any batch of pictures."""
        descend, score = [], []
        for image, row in zip(images, rows.tolist(), strict=True):
            chosen = self._draw(row, moment).to(images.device)
            losses = self._behaviors(image[None], chosen, moment)
            descend.append(losses.descend.mean())
            score.append(losses.score.mean())
        return Losses(torch.stack(descend), torch.stack(score))

    def _draw(self, row: int, moment: Moment) -> Int64[Tensor, " N"]:
        if self._batch == self._count:
            return torch.arange(self._count)
        generator = moment.generator(row, "behaviors")
        return torch.randperm(self._count, generator=generator)[: self._batch].sort().values
