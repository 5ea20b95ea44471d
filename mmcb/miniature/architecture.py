"""The two small models' tokenizer, processor, configurations and initial weights.

Both are the real transformers classes, only small: 8 decoder blocks of width 96, head_dim 32 (one
that vLLM's CPU attention takes), a 4-block CLIP tower on 56-pixel tiles of 4 x 4 patches.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

VOCABULARY_SIZE = 1024
TILE, PATCH = 56, 14
PINPOINTS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "<image>"]

# The form of llava-v1.6-mistral-7b-hf: [INST] <image>\n... [/INST] answer</s>
CHAT_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}[INST] \
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}\
{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}\
{% endif %} [/INST]\
{% else %} \
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}\
{% endif %}{{ eos_token }}{% endif %}{% endfor %}"""


def train_tokenizer(
    corpus: Iterable[str], *, vocabulary_size: int = VOCABULARY_SIZE
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text has tokens, this world's words have one each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def image_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id of the token that stands for a piece of the picture."""
    return int(tokenizer.get_vocab()["<image>"])


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    """The stock LLaVA-NeXT processor with anyres tiles of 56 pixels."""
    image_processor = LlavaNextImageProcessor(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _decoder_config(tokenizer: PreTrainedTokenizerFast) -> MistralConfig:
    return MistralConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=1024,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **_ending_ids(tokenizer),
    )


def make_llm(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> MistralForCausalLM:
    """A freshly initialised tiny-mistral in float32."""
    model = MistralForCausalLM(_decoder_config(tokenizer))
    _initialise(model, seed=seed)
    model.generation_config = _generation_config(tokenizer)
    return model


def make_vlm(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlavaNextForConditionalGeneration:
    """A freshly initialised tiny-llava-next in float32."""
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
        projection_dim=64,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=_decoder_config(tokenizer),
        image_token_index=image_token_id(tokenizer),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **_ending_ids(tokenizer),
    )
    model = LlavaNextForConditionalGeneration(config)
    _initialise(model, seed=seed)
    model.generation_config = _generation_config(tokenizer)
    return model


def _generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    return GenerationConfig(**_ending_ids(tokenizer))


def _ending_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names}


def _initialise(model: nn.Module, *, seed: int) -> None:
    """Scales for a narrow model: 1/sqrt(fan_in), residual outputs smaller, embeddings at 1.

    transformers' default of 0.02 is far too small at width 96: it learns four times slower.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.ndim == 1:
                continue
            if parameter.ndim < 2:
                parameter.zero_()
                if "class_embedding" in name or "image_newline" in name:
                    parameter.normal_(0, 1, generator=generator)
                continue
            scale = 1.0 if "embed" in name else 1 / math.sqrt(parameter[0].numel())
            if "patch_embedding" in name:
                scale = 1 / math.sqrt(parameter[0].numel())
            if any(part in name for part in ("o_proj", "out_proj", "down_proj", "fc2")):
                scale *= 0.35
            parameter.normal_(0, scale, generator=generator)
