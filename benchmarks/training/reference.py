"""The published recipe's training step, re-created for its cost.

As GraySwanAI/circuit-breakers (arXiv 2406.04313) is described: every circuit-breaker text in a
left-padded 512 + right-padded 512 layout, every retain text left-padded to 1024 (a picture's tokens
come on top); four forward passes of the causal-LM head with all hidden states kept, two
frozen and two adapted; gradient checkpointing with gradients down to the embeddings; the losses
over stacked hidden states. `padded=False` is the same with each batch padded to its longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmcb.models.loading import LoadedModel
from mmcb.training.batches import PixelCache, collate
from mmcb.training.examples import EncodedExample
from mmcb.training.paper_compat import PaperCompat
from mmcb.training.recipes import Recipe

# Shapes: L hidden states, B examples, T tokens, D width.


class _Inputs(NamedTuple):
    input_ids: Tensor
    attention_mask: Tensor
    vision: dict[str, Tensor]


class ReferenceTrainer:
    """Adapter, optimiser and the four passes."""

    def __init__(
        self, loaded: LoadedModel, recipe: Recipe, *, lora_layers: tuple[int, int]
    ) -> None:
        """Put an adapter on all of `lora_layers`, the block after the last target included."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            bias="none",
            target_modules=loaded.family.lora_targets(*lora_layers),
        )
        self.recipe = recipe
        self.model: Any = get_peft_model(loaded.model, config)
        self.model.enable_input_require_grads()
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.learning_rate, weight_decay=0.0
        )
        self.pixels = PixelCache(loaded)
        self.pad_id = int(loaded.tokenizer.pad_token_id)
        self.layout = PaperCompat(loaded, recipe)
        self.device = loaded.device

    def step(self, examples: Sequence[EncodedExample], *, step: int, padded: bool) -> int:
        """One optimiser step on circuit-breaker and retain examples; their tokens, padded."""
        breaker = self._inputs([e for e in examples if e.kind == "circuit_breaker"], padded)
        retain = self._inputs([e for e in examples if e.kind == "retain"], padded)
        weights = self.recipe.schedule.at(step)
        targets = list(self.recipe.target_layers)
        with self.model.disable_adapter(), torch.no_grad():
            self.model.eval()
            frozen_retain = self._states(retain)
            frozen_breaker = self._states(breaker)[targets]
        self.model.train()
        loss = weights.retain * _retain(self._states(retain), frozen_retain, retain)
        adapted_breaker = self._states(breaker)[targets]
        loss = loss + weights.reroute * _reroute(adapted_breaker, frozen_breaker, breaker)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()  # as the published code prints it: the host waits for the device
        return breaker.input_ids.numel() + retain.input_ids.numel()

    def _states(self, inputs: _Inputs) -> Tensor:
        output = self.model(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            output_hidden_states=True,
            use_cache=False,
            **inputs.vision,
        )
        return torch.stack(output.hidden_states)

    def _inputs(self, examples: Sequence[EncodedExample], padded: bool) -> _Inputs:
        if padded:
            batch = self.layout.collate(examples, pixels=self.pixels)
        else:
            batch = collate(examples, pixels=self.pixels, pad_id=self.pad_id)
        vision = batch.to(self.device).model_inputs()
        return _Inputs(vision.pop("input_ids"), vision.pop("attention_mask"), vision)


def _retain(adapted_LBTD: Tensor, frozen_LBTD: Tensor, inputs: _Inputs) -> Tensor:
    mask = inputs.attention_mask[None, :, :, None]
    difference = adapted_LBTD * mask - frozen_LBTD * mask
    return torch.norm(difference, dim=-1, p=2, dtype=torch.float).nanmean()


def _reroute(adapted_LBTD: Tensor, frozen_LBTD: Tensor, inputs: _Inputs) -> Tensor:
    mask_LBT = inputs.attention_mask[None].expand(len(adapted_LBTD), -1, -1)
    adapted = adapted_LBTD / torch.norm(adapted_LBTD, dim=-1, keepdim=True, dtype=torch.float)
    frozen = frozen_LBTD / torch.norm(frozen_LBTD, dim=-1, keepdim=True, dtype=torch.float)
    inner_LBT = (adapted * frozen * mask_LBT[..., None]).nansum(dim=-1)
    return torch.relu(inner_LBT).sum() / mask_LBT.sum()
