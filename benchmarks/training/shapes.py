"""Models of a released family's shape with random weights, whole or scaled down for a CPU.

Scaling keeps the proportions that decide what is wasteful: the number of blocks, the MLP's and the
vocabulary's width relative to the model's, grouped-query attention, target layers and LoRA range,
and, for LLaVA-NeXT, the vision tower's depth and relative width and its real 336-pixel tiles.
Attention weighs more at a small width than at 4096; the table that is printed says so.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch

from mmcb.miniature.architecture import CHAT_TEMPLATE
from mmcb.models.families import find_family
from mmcb.models.loading import LoadedModel
from mmcb.models.seeding import seeded

ShapeName = Literal["llava-next", "mistral", "llama-3"]
Scale = Literal["cpu", "full"]
Variant = Literal["reference", "unpadded", "ours"]

FULL_WIDTH = 4096
CPU_WIDTH = 256
TILE = 336
"""Side of LLaVA-NeXT's tiles in pixels."""


class Shape(NamedTuple):
    """What a scale means for a family, in the full model's own numbers."""

    vocabulary: int
    intermediate: int = 14336
    heads: int = 32
    kv_heads: int = 8
    vision_width: int = 1024
    vision_blocks: int = 24


SHAPES: dict[ShapeName, Shape] = {
    "llava-next": Shape(vocabulary=32064),
    "mistral": Shape(vocabulary=32000),
    "llama-3": Shape(vocabulary=128256),
}


def make_model(
    name: ShapeName,
    scale: Scale,
    *,
    tokenizer: Any,
    num_blocks: int,
    with_head: bool,
    tile: int = TILE,
) -> LoadedModel:
    """A model with its first `num_blocks` decoder blocks and random weights.

    Args:
        name: whose shape.
        scale: `full`, or `cpu`.
        tokenizer: any; embeddings have the shape's vocabulary, whatever it uses.
        num_blocks: decoder blocks to make.
        with_head: whether the language-model head is made too.
        tile: side of a view in pixels; smaller, there are fewer tokens.
    """
    family = find_family(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if scale == "full" else torch.float32
    with seeded(0), device:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = _build(name, scale, tokenizer, num_blocks, tile)
        finally:
            torch.set_default_dtype(before)
    if not with_head:
        model.lm_head = torch.nn.Identity()
    model.requires_grad_(False).eval()
    processor = _processor(tokenizer, tile) if family.kind == "vlm" else tokenizer
    return LoadedModel(f"{name}-{scale}", family, model, processor, tokenizer, None)


def scaled_vocabulary(name: ShapeName, scale: Scale) -> int:
    """Rows of the embedding at a scale."""
    return _scaled(SHAPES[name].vocabulary, scale)


def _scaled(size: int, scale: Scale) -> int:
    return size if scale == "full" else size * CPU_WIDTH // FULL_WIDTH


def _build(name: ShapeName, scale: Scale, tokenizer: Any, num_blocks: int, tile: int) -> Any:
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        MistralConfig,
        MistralForCausalLM,
    )

    text = _text_settings(name, scale, tokenizer, num_blocks)
    if name == "llama-3":
        return LlamaForCausalLM(LlamaConfig(**text, rope_parameters=_rope(500000.0)))
    if name == "mistral":
        return MistralForCausalLM(
            MistralConfig(**text, sliding_window=None, rope_parameters=_rope(1000000.0))
        )
    config = LlavaNextConfig(
        vision_config=_vision_config(scale, tile),
        text_config=MistralConfig(**text, sliding_window=None, rope_parameters=_rope(1000000.0)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=_pinpoints(tile),
        tie_word_embeddings=False,
    )
    return LlavaNextForConditionalGeneration(config)


def _pinpoints(tile: int) -> list[list[int]]:
    """The canvases of the released checkpoints, in tiles."""
    grids = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    return [[rows * tile, columns * tile] for rows, columns in grids]


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def _text_settings(
    name: ShapeName, scale: Scale, tokenizer: Any, num_blocks: int
) -> dict[str, Any]:
    shape = SHAPES[name]
    # At the small scale heads are 32 wide instead of 128: as many as fit, four to a key-value head.
    full = scale == "full"
    heads = shape.heads if full else CPU_WIDTH // 32
    return {
        "vocab_size": _scaled(shape.vocabulary, scale),
        "hidden_size": FULL_WIDTH if full else CPU_WIDTH,
        "intermediate_size": _scaled(shape.intermediate, scale),
        "num_hidden_layers": num_blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": heads * shape.kv_heads // shape.heads,
        "max_position_embeddings": 8192,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }


def _vision_config(scale: Scale, tile: int) -> Any:
    from transformers import CLIPVisionConfig

    shape = SHAPES["llava-next"]
    width = _scaled(shape.vision_width, scale)
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=shape.vision_blocks,
        num_attention_heads=max(1, width // 64),
        image_size=tile,
        patch_size=14,
        projection_dim=768,
    )


def _processor(tokenizer: Any, tile: int) -> Any:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": tile},
            crop_size={"height": tile, "width": tile},
            image_grid_pinpoints=_pinpoints(tile),
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
