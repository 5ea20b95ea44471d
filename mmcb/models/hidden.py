"""Running part of the decoder: from embeddings to the hidden states asked for, and no further.

Shapes: B examples, T tokens, D width. `hidden_states[k]` is Hugging Face's index: the output of
block k-1, with k = 0 the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmcb.models.loading import LoadedModel


def embed_inputs(
    loaded: LoadedModel, batch: Mapping[str, Tensor], *, one_by_one: bool = False
) -> Float[Tensor, "B T D"]:
    """Token embeddings, with image features in the places of the image tokens.

    Gradients flow to `pixel_values`. Examples without an image may stand among others: the images
    are taken in order, each for the next example that has image tokens.

    Args:
        loaded: an LLM or a VLM.
        batch: `input_ids` (B, T); with images also `pixel_values` (N, V, 3, h, w) and
            `image_sizes` (N, 2), for the N examples that have one, in their order.
        one_by_one: see `image_features`.

    Raises:
        ValueError: the image tokens are not as many as the images' features.
    """
    base = loaded.base
    input_ids = batch["input_ids"]
    hidden: Tensor = base.get_input_embeddings()(input_ids)
    pixel_values = batch.get("pixel_values")
    if pixel_values is None or pixel_values.shape[0] == 0:
        return hidden
    features = image_features(loaded, pixel_values, batch["image_sizes"], one_by_one=one_by_one)
    flat = torch.cat(features).to(hidden)
    at = (input_ids == base.config.image_token_id).unsqueeze(-1)
    # On a GPU the host would wait for the count; too few features fail there in the scatter itself.
    if at.device.type == "cpu" and int(at.sum()) != flat.shape[0]:
        raise ValueError(f"{int(at.sum())} image tokens for {flat.shape[0]} image features")
    return hidden.masked_scatter(at, flat)


def image_features(
    loaded: LoadedModel,
    pixel_values: Float[Tensor, "N *V 3 h w"],
    image_sizes: Int[Tensor, "N 2"],
    *,
    one_by_one: bool = False,
) -> list[Float[Tensor, "I D"]]:
    """The image tokens' embeddings, one tensor an image (I differs between image sizes).

    Args:
        loaded: a VLM.
        pixel_values: views of each image, rows past an image's own views are padding; or one view
            an image, (N, 3, h, w).
        image_sizes: (height, width) of the raw images.
        one_by_one: give each image a pass of its own, slower, so that its features do not depend,
            in the last bits, on what else is in the batch.
    """
    size = 1 if one_by_one else max(1, pixel_values.shape[0])
    features: list[Tensor] = []
    # Only models with several views an image need to know how these were cut from it.
    in_views = pixel_values.ndim == 5
    for part, sizes in zip(pixel_values.split(size), image_sizes.split(size), strict=True):
        known = {"image_sizes": sizes} if in_views else {}
        output = loaded.base.model.get_image_features(part, return_dict=True, **known)
        features.extend(output.pooler_output)
    return features


def position_ids_of(attention_mask: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Positions that count only real tokens, so that padding on either side changes nothing."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)


def run_blocks(
    loaded: LoadedModel,
    hidden_BTD: Float[Tensor, "B T D"],
    attention_mask: Int[Tensor, "B T"] | None,
    position_ids: Int[Tensor, "B T"] | None,
    *,
    start: int,
    stop: int,
    collect: Collection[int],
    checkpoint: bool = False,
) -> dict[int, Float[Tensor, "B T D"]]:
    """Run decoder blocks [start, stop) and hand back chosen hidden states. No head, no cache.

    Args:
        loaded: the model, adapter active or inside `adapter_disabled()`.
        hidden_BTD: `hidden_states[start]`, e.g. from `embed_inputs` for start 0.
        attention_mask: 1 for real tokens, 0 for padding (either side). None where there is no
            padding, or only on the right: under causal attention no real token sees that, and an
            attention kernel without a mask does half the work.
        position_ids: None counts the real tokens of `attention_mask`, or all without one.
        start: first block to run.
        stop: one past the last block to run.
        collect: indices k of `hidden_states[k]`, in [start, stop].
        checkpoint: keep of a block its input only, and run it again for its gradient. Whatever is
            random in it must be the same again.

    Returns:
        k -> output of block k-1. The state after the model's last block is this raw output; the
        model's own `hidden_states[-1]` has the final norm on top (`loaded.decoder.norm`).

    Raises:
        ValueError: an index outside [start, stop], or blocks that were not loaded.
    """
    layers = loaded.decoder_layers
    _check_range(start, stop, collect, num_blocks=len(layers))
    if position_ids is None:
        if attention_mask is None:
            position_ids = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)[None]
        else:
            position_ids = position_ids_of(attention_mask)
    decoder = loaded.decoder
    kinds = getattr(decoder.config, "layer_types", None) or [""] * len(layers)
    masks = _causal_masks(decoder.config, hidden_BTD, attention_mask)
    rotations = _rotations(decoder.rotary_emb, hidden_BTD, position_ids, kinds=set(kinds))
    states = {start: hidden_BTD} if start in collect else {}
    for block in range(start, stop):
        run = _again(layers[block]) if checkpoint else layers[block]
        hidden_BTD = run(
            hidden_BTD,
            attention_mask=masks[kinds[block]],
            position_ids=position_ids,
            past_key_values=None,
            use_cache=False,
            position_embeddings=rotations[kinds[block]],
        )
        if block + 1 in collect:
            states[block + 1] = hidden_BTD
    return states


def _again(block: Callable[..., Tensor]) -> Callable[..., Tensor]:
    from torch.utils.checkpoint import checkpoint

    return partial(checkpoint, block, use_reentrant=False, preserve_rng_state=False)


def _check_range(start: int, stop: int, collect: Collection[int], *, num_blocks: int) -> None:
    if not 0 <= start <= stop <= num_blocks:
        raise ValueError(f"blocks [{start}, {stop}) of {num_blocks}")
    outside = sorted(k for k in collect if not start <= k <= stop)
    if outside:
        raise ValueError(f"hidden states {outside} are not made by blocks [{start}, {stop})")


def _causal_masks(
    config: Any, hidden_BTD: Tensor, attention_mask: Tensor | None
) -> Mapping[str, Any]:
    """For each kind of attention the mask that the decoder's own forward would make.

    Position ids are kept from it: it would look in them for packed sequences, and wait for the
    device to do so.
    """
    from transformers.masking_utils import create_masks_for_generate

    made = create_masks_for_generate(
        config=config,
        inputs_embeds=hidden_BTD,
        attention_mask=attention_mask,
        past_key_values=None,
    )
    return made if isinstance(made, dict) else {"": made}


def _rotations(
    rotary: Any, hidden_BTD: Tensor, position_ids: Tensor, *, kinds: Collection[str]
) -> Mapping[str, Any]:
    """For each kind of attention its rotations, which most decoders share among all."""
    if "layer_type" in signature(rotary.forward).parameters:
        return {kind: rotary(hidden_BTD, position_ids, layer_type=kind) for kind in kinds}
    return dict.fromkeys(kinds, rotary(hidden_BTD, position_ids=position_ids))
