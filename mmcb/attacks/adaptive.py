"""The adaptive objective: the target, and the defended model's own likeness to the frozen one.

Rerouting trips when the hidden states at the target layers turn away from the frozen model's. An
attacker who knows that also keeps them together: cross-entropy of the target, plus the weighted
mean of 1 - cos(adapted, frozen) over the target layers and the tokens after the image. The frozen
model is the same model with its adapter switched off; the vision tower, which has no adapter, runs
once for both.

Source: the reroute loss of arXiv 2406.04313 (eq. 2) turned around; the likeness term follows
AdversariaLLM's `tie_features`. Ramped: at first the target must be found at all.

Shapes: A rows, v tokens after the image, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmcb.attacks.core import Losses, Moment
from mmcb.attacks.objective import TargetObjective
from mmcb.models.loading import LoadedModel


class AdaptiveObjective:
    """Target cross-entropy plus distance from the frozen model; iterates are scored by the former.

    Args:
        target: the objective without the distance.
        loaded: the model, its adapter on.
        layers: `hidden_states` indices that the defence rerouted.
        weight: of the distance, once the ramp is over.
        ramp: share of a restart over which the weight rises from 0; 0: full from the start.
    """

    passes = 2  # the adapted and the frozen model, each forward and backward

    def __init__(
        self,
        target: TargetObjective,
        *,
        loaded: LoadedModel,
        layers: Sequence[int],
        weight: float,
        ramp: float,
    ) -> None:
        if not layers:
            raise ValueError("the adaptive objective needs the layers that were rerouted")
        self._target = target
        self._loaded = loaded
        self._layers = tuple(layers)
        self._weight = weight
        self._ramp = ramp

    def __call__(
        self, images: Float[Tensor, "A 3 H W"], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Losses:
        """Losses of raw pictures; differentiable through both models."""
        embedded = self._target.embed(images, rows)
        adapted = self._target.force(embedded, rows, layers=self._layers)
        losses = adapted.cross_entropy()
        weight = self.weight_at(moment)
        if weight == 0.0:
            return Losses(losses, losses)
        with self._loaded.adapter_disabled():
            frozen = self._target.force(embedded, rows, layers=self._layers)
        mask = self._target.tokens.watched(rows)
        pairs = [(adapted.hidden[layer], frozen.hidden[layer]) for layer in self._layers]
        return Losses(losses + weight * distance(pairs, mask), losses)

    def weight_at(self, moment: Moment) -> float:
        """The distance's weight: rises evenly over the first `ramp` of a restart."""
        if self._ramp == 0.0:
            return self._weight
        return self._weight * min(1.0, moment.progress / self._ramp)


def distance(
    pairs: Sequence[tuple[Float[Tensor, "A v D"], Float[Tensor, "A v D"]]],
    mask: Bool[Tensor, "A v"],
) -> Float[Tensor, " A"]:
    """Mean of 1 - cos over layers and the tokens of `mask`."""
    exact = torch.promote_types(pairs[0][0].dtype, torch.float32)
    total = mask.new_zeros(len(mask), dtype=exact)
    for adapted, frozen in pairs:
        apart = 1.0 - F.cosine_similarity(adapted.to(exact), frozen.to(exact), dim=-1)
        total = total + (apart * mask).sum(dim=1) / mask.sum(dim=1)
    return total / len(pairs)
