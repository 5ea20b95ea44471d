"""The losses as algorithm 1 states them, slowly: one example, one layer, one token at a time.

transformers' own forward pass runs the whole model twice for each example, with and without the
adapter, in float64. Nothing of `mmcb.training` but the encoded examples and the recipe is used.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mmcb.models.loading import LoadedModel
from mmcb.training.batches import PixelCache
from mmcb.training.examples import EncodedExample
from mmcb.training.recipes import Recipe
from mmcb.training.schedule import Weights

EPSILON = 1e-8
TILT = 0.1


def in_float64(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """The same model in float64 throughout: norms and softmax would go through float32."""
    to, softmax = Tensor.to, torch.nn.functional.softmax

    def exact_to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        lowers = self.dtype == torch.float64 and args == (torch.float32,)
        return self if lowers else to(self, *args, **kwargs)

    def exact_softmax(x: Tensor, *args: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
        return softmax(x, *args, **kwargs)

    monkeypatch.setattr(Tensor, "float", lambda self: exact_to(self, torch.float32))
    monkeypatch.setattr(Tensor, "to", exact_to)
    monkeypatch.setattr(torch.nn.functional, "softmax", exact_softmax)
    loaded.model.double()
    return loaded


def reference_losses(
    loaded: LoadedModel,
    recipe: Recipe,
    examples: Sequence[EncodedExample],
    *,
    weights: Weights,
    directions: Tensor,
    targets: Tensor | None = None,
) -> dict[str, Tensor]:
    """Loss and its terms over all examples of a step: means over marked tokens and layers.

    With targets (L, D), the reroute loss is the distance to them, both scaled to length 1.
    """
    pixels = PixelCache(loaded) if loaded.is_vlm else None
    reroute: list[Tensor] = []
    escape: list[Tensor] = []
    retain: list[Tensor] = []
    for example in examples:
        adapted, frozen = _both_passes(loaded, example, pixels)
        for t in range(example.mask_start, len(example.input_ids)):
            if example.kind == "circuit_breaker":
                for i, (layer, direction) in enumerate(
                    zip(recipe.target_layers, directions, strict=True)
                ):
                    a, f = adapted[layer][t], frozen[layer][t]
                    if targets is None:
                        reroute.append(torch.relu(_cosine(a, f)))
                    else:
                        reroute.append((a / a.norm() - targets[i] / targets[i].norm()).norm())
                    tilted = f + TILT * f.norm() * direction.double()
                    angle = torch.arccos(_cosine(a, tilted).clamp(-1 + 1e-6, 1 - 1e-6))
                    escape.append(torch.relu(1 - angle / (math.pi / 2)))
            else:
                # Every layer that an adapter can change, up to the last target.
                for layer in range(recipe.lora_layers[0] + 1, max(recipe.target_layers) + 1):
                    retain.append((adapted[layer][t] - frozen[layer][t]).norm())
    terms = {"reroute_loss": _mean(reroute), "retain_loss": _mean(retain)}
    terms["escape_loss"] = _mean(escape)
    loss = (
        weights.reroute * terms["reroute_loss"]
        + weights.retain * terms["retain_loss"]
        + weights.escape * terms["escape_loss"]
    )
    return {"loss": loss, **terms}


def reference_target(
    loaded: LoadedModel, recipe: Recipe, examples: Sequence[EncodedExample], *, target: str
) -> Tensor:
    """Mean frozen states (L, D) before a refusal, or before the end of an answer."""
    pixels = PixelCache(loaded) if loaded.is_vlm else None
    found: list[Tensor] = []
    for example in examples:
        if example.kind != "retain" or (target == "refusal" and example.task != "refusal"):
            continue
        _, frozen = _both_passes(loaded, example, pixels)
        last = len(example.input_ids) - 1
        assert example.input_ids[last] == loaded.tokenizer.eos_token_id
        token = (example.answer_start if target == "refusal" else last) - 1
        found.append(torch.stack([frozen[layer][token] for layer in recipe.target_layers]))
    return torch.stack(found).mean(0)


def gradients(loaded: LoadedModel) -> dict[str, Tensor]:
    """The gradients of all LoRA weights, which are then forgotten."""
    found = {}
    for name, parameter in loaded.model.named_parameters():
        if "lora_" in name:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
            parameter.grad = None
    return found


def _both_passes(
    loaded: LoadedModel, example: EncodedExample, pixels: PixelCache | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`hidden_states` of the adapted and of the frozen model, each layer (T, D)."""
    ids = torch.tensor([example.input_ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if example.image is not None:
        assert pixels is not None
        views, size = pixels(example.image)
        inputs["pixel_values"] = views[None].double()
        if views.ndim == 4:  # several views: the model must know how they were cut
            inputs["image_sizes"] = size[None]
    adapted = loaded.model(**inputs, output_hidden_states=True, use_cache=False)
    with torch.no_grad(), loaded.adapter_disabled():
        frozen = loaded.model(**inputs, output_hidden_states=True, use_cache=False)
    return (
        tuple(layer[0] for layer in adapted.hidden_states),
        tuple(layer[0] for layer in frozen.hidden_states),
    )


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a / a.norm().clamp_min(EPSILON)) @ (b / b.norm().clamp_min(EPSILON))


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean() if values else torch.zeros(())
