"""What an optimiser step minimises: the seam between the losses' arithmetic and the training loop.

Shapes: B examples, T tokens, D width. Layer k is Hugging Face's `hidden_states[k]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from mmcb.models.hidden import position_ids_of
from mmcb.models.loading import LoadedModel
from mmcb.training.batches import Batch, PixelCache, collate
from mmcb.training.examples import EncodedExample
from mmcb.training.losses import (
    escape_directions,
    escape_loss,
    reroute_loss,
    retain_loss,
    target_loss,
)
from mmcb.training.microbatches import cut
from mmcb.training.recipes import Recipe
from mmcb.training.schedule import Weights

States = Mapping[int, Float[Tensor, "B T D"]]
"""Layer k to its hidden states."""


@dataclass(frozen=True, slots=True)
class StepTotals:
    """What a batch must know of the whole optimiser step, of which it is a part.

    Attributes:
        reroute_tokens: tokens that the reroute loss counts, in all batches of all processes.
        retain_tokens: the same of the retain loss.
        batches: number of these batches.
    """

    reroute_tokens: int
    retain_tokens: int
    batches: int = 1

    @classmethod
    def of_batch(cls, batch: Batch) -> StepTotals:
        """Those of a batch that is a step of its own."""
        return cls(int(batch.reroute_mask.sum()), int(batch.retain_mask.sum()))


class Objective(Protocol):
    """One arithmetic of the losses, from encoded examples to three scalars."""

    def marked(self, example: EncodedExample) -> int:
        """Tokens of an example that its loss counts."""

    def split(self, examples: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        """Cut a batch into passes, where that changes no loss."""

    def collate(self, examples: Sequence[EncodedExample], *, pixels: PixelCache) -> Batch:
        """Lay examples out as a batch."""

    def positions(self, batch: Batch) -> Int[Tensor, "B T"]:
        """Position ids of a batch."""

    def weights(self, step: int, *, micro: int) -> Weights:
        """Weights of a batch, by optimiser step (from 1) and batch inside it (from 0)."""

    def losses(
        self, adapted: States, frozen: States, batch: Batch, totals: StepTotals
    ) -> dict[str, Float[Tensor, ""]]:
        """The batch's shares of the step's `reroute_loss`, `retain_loss` and `escape_loss`."""


def step_totals(
    objective: Objective, examples: Sequence[EncodedExample], *, batches: int
) -> StepTotals:
    """Totals of a step, known before any of its batches is made.

    Args:
        objective: what counts.
        examples: all examples of the step, of all processes.
        batches: the batches that they are split into.
    """
    marked = {"circuit_breaker": 0, "retain": 0}
    for example in examples:
        marked[example.kind] += objective.marked(example)
    return StepTotals(marked["circuit_breaker"], marked["retain"], batches)


class MaskedMeans:
    """The objective of algorithm 1: means over the marked tokens of the whole step.

    Every marked token of a step weighs the same, whatever batch it stands in, so any split of the
    same examples into batches and processes has the same loss and the same gradient.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        recipe: Recipe,
        *,
        seed: int,
        targets: Float[Tensor, "L D"] | None = None,
    ) -> None:
        """Draw the escape directions.

        Args:
            loaded: the model to train.
            recipe: layers and schedule.
            seed: seed of the escape directions.
            targets: what circuit-breaker tokens are pulled towards at each target layer
                (`targets.py`); None for the paper's loss, away from the frozen state.
        """
        self._targets_LD = None if targets is None else targets.to(loaded.device)
        self._recipe = recipe
        self._pad_id = int(loaded.tokenizer.pad_token_id or 0)
        width = int(loaded.decoder.config.hidden_size)
        directions_LD = escape_directions(len(recipe.target_layers), width=width, seed=seed)
        self._directions_LD = directions_LD.to(loaded.device)

    def marked(self, example: EncodedExample) -> int:
        """Tokens of an example that its loss counts: from its mask's start."""
        return len(example.input_ids) - example.mask_start

    def split(self, examples: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        """Rows of like length together: passes with little padding."""
        lengths = [len(example.input_ids) for example in examples]
        return [[examples[index] for index in group] for group in cut(lengths)]

    def collate(self, examples: Sequence[EncodedExample], *, pixels: PixelCache) -> Batch:
        """Pad to the longest of the batch, on the right."""
        return collate(examples, pixels=pixels, pad_id=self._pad_id)

    def positions(self, batch: Batch) -> Int[Tensor, "B T"]:
        """Count real tokens, so that padding changes nothing."""
        return position_ids_of(batch.attention_mask)

    def weights(self, step: int, *, micro: int) -> Weights:
        """Weights of the optimiser step, the same in all its batches."""
        return self._recipe.schedule.at(step)

    def losses(
        self, adapted: States, frozen: States, batch: Batch, totals: StepTotals
    ) -> dict[str, Float[Tensor, ""]]:
        """The batch's sums over its tokens, divided by the step's counts of them."""
        targets, retained = self._recipe.target_layers, self._recipe.retain_layers
        at_targets = pick(adapted, targets), pick(frozen, targets)
        mask, tokens = batch.reroute_mask, totals.reroute_tokens
        rerouted = (
            reroute_loss(*at_targets, mask, tokens=tokens)
            if self._targets_LD is None
            else target_loss(at_targets[0], self._targets_LD, mask, tokens=tokens)
        )
        return {
            "reroute_loss": rerouted,
            "retain_loss": retain_loss(
                pick(adapted, retained),
                pick(frozen, retained),
                batch.retain_mask,
                tokens=totals.retain_tokens,
            ),
            "escape_loss": escape_loss(*at_targets, self._directions_LD, mask, tokens=tokens),
        }


def pick(states: States, layers: Sequence[int]) -> list[Float[Tensor, "B T D"]]:
    """The hidden states of some layers, in their order."""
    return [states[layer] for layer in layers]
