"""Representation rerouting as one module: the frozen pass, the adapted pass and the losses.

Shapes: B examples, T tokens, D width. Layer k is Hugging Face's `hidden_states[k]`, the output of
decoder block k-1.

What the adapter cannot change is run once: vision tower, projector, embeddings and the blocks below
the first adapter. What the losses do not see is not run at all: the blocks after the last target,
the final norm and the lm_head.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmcb.models.hidden import embed_inputs, run_blocks
from mmcb.models.loading import LoadedModel
from mmcb.models.seeding import seeded
from mmcb.training.batches import Batch
from mmcb.training.dropout import install_row_dropout
from mmcb.training.losses import Hidden, Mask, cosines, masked_tokens, mean_or_zero
from mmcb.training.objective import MaskedMeans, Objective, StepTotals, pick
from mmcb.training.paper_compat import PaperCompat
from mmcb.training.recipes import Recipe
from mmcb.training.schedule import Weights


def add_adapter(loaded: LoadedModel, recipe: Recipe, *, seed: int) -> LoadedModel:
    """Put a fresh adapter on the decoder's blocks; it changes nothing yet, and only it can train.

    Args:
        loaded: a model without an adapter. Its layers are changed in place.
        recipe: blocks, rank, scale and dropout.
        seed: seed of the adapter's random half; torch's own state is left as it was.

    Returns:
        The same model, wrapped.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        bias="none",
        # The full names of the decoder's maps: a plain `q_proj` would match the vision tower's too.
        target_modules=loaded.family.lora_targets(*recipe.lora_layers),
    )
    with seeded(seed):
        model = get_peft_model(loaded.model, config)
    return dataclasses.replace(loaded, model=model)


def objective_of(
    loaded: LoadedModel, recipe: Recipe, *, seed: int, targets: Tensor | None = None
) -> Objective:
    """The arithmetic that a recipe asks for; nothing else chooses it.

    Args:
        loaded: the model to train.
        recipe: how to train it.
        seed: seed of the escape directions.
        targets: (L, D), where the recipe's reroute target is a fixed one: `targets.py`.
    """
    assert (targets is None) == (recipe.reroute_target == "rr"), recipe.reroute_target
    if recipe.paper_compat:
        return PaperCompat(loaded, recipe)
    return MaskedMeans(loaded, recipe, seed=seed, targets=targets)


class Rerouter(nn.Module):
    """The losses of one batch, from one prefix and two passes through the adapter's blocks."""

    def __init__(
        self, loaded: LoadedModel, recipe: Recipe, *, seed: int, targets: Tensor | None = None
    ) -> None:
        """Wrap a model that has an adapter.

        Args:
            loaded: the model, with `recipe.num_blocks` blocks at least.
            recipe: blocks, layers and losses.
            seed: seed of the escape directions.
            targets: (L, D), where the recipe's reroute target is a fixed one: `targets.py`.
        """
        super().__init__()
        self.model = loaded.model
        self._loaded = loaded
        self._recipe = recipe
        self.objective = objective_of(loaded, recipe, seed=seed, targets=targets)
        self.noise = install_row_dropout(loaded.model)

    def train(self, mode: bool = True) -> Rerouter:
        """Switch the adapter's dropout; the frozen model stays in eval mode."""
        super().train(mode)
        self.model.eval()
        for name, module in self.model.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def forward(
        self, batch: Batch, weights: Weights, totals: StepTotals | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses and monitors of a batch, as its shares of those of the whole step.

        Args:
            batch: circuit-breaker and retain examples, on the model's device.
            weights: weights of the losses in this batch.
            totals: of the step that the batch is a part of; None when it is a step of its own.
                Summed over a step's batches, what is returned is the step's.

        Returns:
            Scalars. `loss` has a gradient; the others are detached: `reroute_loss`, `retain_loss`,
            `escape_loss`, the mean cosines of adapted and frozen at the target layers
            (`reroute_cosine` over circuit-breaker tokens, `retain_cosine` over retain tokens), and
            `frozen_norm` and `adapted_norm`, mean norms of circuit-breaker tokens there.
        """
        totals = StepTotals.of_batch(batch) if totals is None else totals
        frozen, adapted = self.hidden_states(batch)
        losses = self.objective.losses(adapted, frozen, batch, totals)
        loss = (
            weights.reroute * losses["reroute_loss"]
            + weights.retain * losses["retain_loss"]
            + weights.escape * losses["escape_loss"]
        )
        targets = self._recipe.target_layers
        monitors = _monitors(pick(adapted, targets), pick(frozen, targets), batch, totals)
        return {"loss": loss, **{name: v.detach() for name, v in losses.items()}, **monitors}

    def hidden_states(self, batch: Batch) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Hidden states (B, T, D) of the frozen and of the adapted model.

        Returns:
            Two maps from layer k to its hidden states, for every layer that the adapter can change
            up to the last target. Only the adapted ones have a gradient.
        """
        first, stop = self._recipe.lora_layers[0], self._recipe.num_blocks
        mask_BT = batch.attention_mask
        positions_BT = self.objective.positions(batch)
        with torch.no_grad(), self._loaded.adapter_disabled():
            hidden_BTD = embed_inputs(self._loaded, batch.model_inputs())
            if first > 0:
                below = run_blocks(
                    self._loaded, hidden_BTD, mask_BT, positions_BT,
                    start=0, stop=first, collect={first},
                )  # fmt: skip
                hidden_BTD = below[first]
            frozen = self._upper_blocks(hidden_BTD, mask_BT, positions_BT, stop=stop)
        adapted = self._upper_blocks(hidden_BTD, mask_BT, positions_BT, stop=stop)
        return frozen, adapted

    def _upper_blocks(
        self, hidden_BTD: Tensor, mask_BT: Tensor, positions_BT: Tensor, *, stop: int
    ) -> dict[int, Tensor]:
        return run_blocks(
            self._loaded, hidden_BTD, mask_BT, positions_BT,
            start=self._recipe.lora_layers[0], stop=stop, collect=set(self._recipe.retain_layers),
        )  # fmt: skip


@torch.no_grad()
def _monitors(
    adapted: Hidden, frozen: Hidden, batch: Batch, totals: StepTotals
) -> dict[str, Tensor]:
    def mean_cosine(mask: Mask, tokens: int) -> Tensor:
        cosines_LN = cosines(masked_tokens(adapted, mask), masked_tokens(frozen, mask))
        return mean_or_zero(cosines_LN, tokens=tokens)

    def mean_norm(hidden: Hidden) -> Tensor:
        tokens_LND = torch.stack(masked_tokens(hidden, batch.reroute_mask))
        norms_LN = torch.linalg.vector_norm(tokens_LND, dim=-1)
        return mean_or_zero(norms_LN, tokens=totals.reroute_tokens)

    return {
        "reroute_cosine": mean_cosine(batch.reroute_mask, totals.reroute_tokens),
        "retain_cosine": mean_cosine(batch.retain_mask, totals.retain_tokens),
        "frozen_norm": mean_norm(frozen),
        "adapted_norm": mean_norm(adapted),
    }
