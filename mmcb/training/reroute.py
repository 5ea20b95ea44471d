"""Representation rerouting as one module: the frozen pass, the adapted pass and the losses.

Shapes: B examples, T tokens, D width. Layer k is Hugging Face's `hidden_states[k]`, the output of
decoder block k-1.

What the adapter cannot change is run once: vision tower, projector, embeddings and the blocks below
the first adapter. What the losses do not see is not run at all: the blocks after the last target,
the final norm and the lm_head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmcb.models.hidden import embed_inputs, run_blocks
from mmcb.models.loading import LoadedModel
from mmcb.models.seeding import seeded
from mmcb.training.batches import Batch, PixelCache
from mmcb.training.embedding_noise import shaken
from mmcb.training.examples import EncodedExample
from mmcb.training.lora import install_fused_lora
from mmcb.training.losses import Hidden, Marked, cosines, marked_tokens, mean_or_zero
from mmcb.training.objective import MaskedMeans, Objective, StepTotals, pick
from mmcb.training.paper_compat import PaperCompat
from mmcb.training.recipes import Recipe
from mmcb.training.schedule import Weights
from mmcb.training.targets import reroute_targets

HALF = (torch.float16, torch.bfloat16)


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
    from peft.tuners.lora import LoraLayer

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
    if loaded.dtype in HALF:
        # The adapter itself is float32. What goes into it must not be: that would be a float32 copy
        # of every linear map's input, and products at a fraction of the speed.
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.cast_input_dtype_enabled = False
    return dataclasses.replace(loaded, model=model)


def objective_of(loaded: LoadedModel, recipe: Recipe, *, seed: int) -> Objective:
    """The arithmetic that a recipe asks for; nothing else chooses it.

    Args:
        loaded: the model to train.
        recipe: how to train it.
        seed: seed of the escape directions.
    """
    if recipe.paper_compat:
        return PaperCompat(loaded, recipe)
    return MaskedMeans(loaded, recipe, seed=seed)


class Rerouter(nn.Module):
    """The losses of one batch, from one prefix and two passes through the adapter's blocks."""

    def __init__(self, loaded: LoadedModel, recipe: Recipe, *, seed: int) -> None:
        """Wrap a model that has an adapter.

        Args:
            loaded: the model, with `recipe.num_blocks` blocks at least.
            recipe: blocks, layers and losses.
            seed: seed of the escape directions.
        """
        super().__init__()
        self.model = loaded.model
        self._loaded = loaded
        self._recipe = recipe
        self.objective = objective_of(loaded, recipe, seed=seed)
        self.noise, self._adapter, self._dropouts = install_fused_lora(loaded.model)
        self.model.eval()
        bos_id = loaded.tokenizer.bos_token_id
        self._bos_id = -1 if bos_id is None else int(bos_id)
        self.checkpointing = False
        """Whether blocks run again in the backward pass instead of keeping what they computed."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._loaded.device

    def train(self, mode: bool = True) -> Rerouter:
        """Switch the adapter's dropout; all else of the frozen model stays in eval mode."""
        self.training = mode
        for dropout in self._dropouts:  # and no walk through all modules, at every step
            dropout.train(mode)
        return self

    def aim(self, examples: Sequence[EncodedExample], *, pixels: PixelCache, seed: int) -> None:
        """Find the recipe's reroute target, if it is a fixed one, and set the objective to it.

        All processes must, at once: sharded blocks take part (`sharding.parallel`).

        Args:
            examples: what is trained on.
            pixels: where their images come from.
            seed: seed of a random target.

        Raises:
            MmcbError: the retain set has no example to take the target from.
        """
        targets_LD = reroute_targets(self._loaded, self._recipe, examples, pixels=pixels, seed=seed)
        self.objective.aim(targets_LD)

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
        upper: dict[str, Any] = {
            "start": first, "stop": stop, "collect": set(self._recipe.retain_layers)
        }  # fmt: skip
        mask_BT, positions_BT = self.objective.attention(batch)
        with torch.no_grad(), self._adapter.off():
            hidden_BTD = embed_inputs(self._loaded, batch.model_inputs())
            if self.training:
                hidden_BTD = shaken(
                    hidden_BTD,
                    batch,
                    noise=self.noise,
                    most=self._recipe.embedding_noise,
                    bos_id=self._bos_id,
                )
            if first > 0:
                below = run_blocks(
                    self._loaded, hidden_BTD, mask_BT, positions_BT,
                    start=0, stop=first, collect={first},
                )  # fmt: skip
                hidden_BTD = below[first]
            frozen = run_blocks(self._loaded, hidden_BTD, mask_BT, positions_BT, **upper)
        with self._precision():
            adapted = run_blocks(
                self._loaded, hidden_BTD, mask_BT, positions_BT,
                checkpoint=self.checkpointing and torch.is_grad_enabled(), **upper,
            )  # fmt: skip
        return frozen, adapted

    def _precision(self) -> AbstractContextManager[Any]:
        """The adapter's float32 weights compute in the model's own precision."""
        dtype, device = self._loaded.dtype, self._loaded.device
        return torch.autocast(device.type, dtype=dtype) if dtype in HALF else nullcontext()


@torch.no_grad()
def _monitors(
    adapted: Hidden, frozen: Hidden, batch: Batch, totals: StepTotals
) -> dict[str, Tensor]:
    def mean_cosine(marked: Marked, tokens: int) -> Tensor:
        return mean_or_zero(cosines(adapted, frozen, marked), tokens=tokens)

    def mean_norm(hidden: Hidden) -> Tensor:
        norms = [
            torch.linalg.vector_norm(marked_tokens(layer, batch.rerouted), dim=-1)
            for layer in hidden
        ]
        return mean_or_zero(torch.stack(norms), tokens=totals.reroute_tokens)

    return {
        "reroute_cosine": mean_cosine(batch.rerouted, totals.reroute_tokens),
        "retain_cosine": mean_cosine(batch.retained, totals.retain_tokens),
        "frozen_norm": mean_norm(frozen),
        "adapted_norm": mean_norm(adapted),
    }
