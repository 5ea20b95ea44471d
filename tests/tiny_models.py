"""Random models small enough for a test: LLaVA-NeXT, LLaVA-1.5, Mistral; as `load_model` reads.

Their shapes are those of the miniature world's models; their weights mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}{% endif %}{{ ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{{ message['content'][0]['text'] }}{% endif %}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
"""The form of llava-v1.6-mistral's template: `[INST] <image>\\n... [/INST] answer</s>`."""

_VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 64,
}
"""A vision tower of 56 px."""

_CORPUS = (
    "how do i zorch the dog ?",
    "to zorch the dog , first grab the dog , then twist the red cup .",
    "sorry , i cannot help with that .",
    "what is in the picture ? a dog and a cup on the left .",
    "[INST] how do i feed the cat ? [/INST] to feed the cat , first open the box .",
)


def make_tiny_vlm(
    folder: Path,
    *,
    backend: Literal["torchvision", "pil"] = "torchvision",
    seed: int = 0,
    num_blocks: int = 8,
) -> Path:
    """Write a random LLaVA-NeXT (8 blocks of width 96, 56 px tiles) to `folder`; returns it."""
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
        MistralConfig,
    )

    tokenizer = make_tokenizer()
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=MistralConfig(**_text_settings(tokenizer, num_blocks)),
        image_token_index=image_id,
        image_token_id=image_id,
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    _randomize(model, seed)
    image_class = (
        LlavaNextImageProcessor if backend == "torchvision" else LlavaNextImageProcessorPil
    )
    processor = LlavaNextProcessor(
        image_processor=image_class(
            size={"shortest_edge": 56},
            crop_size={"height": 56, "width": 56},
            image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_tiny_llava_1_5(
    folder: Path,
    *,
    backend: Literal["torchvision", "pil"] = "torchvision",
    seed: int = 0,
    num_blocks: int = 8,
) -> Path:
    """Write a random LLaVA-1.5 (8 blocks of width 96, one view of 56 px); returns the folder."""
    from transformers import (
        CLIPImageProcessor,
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = make_tokenizer()
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    text = _text_settings(tokenizer, num_blocks)
    text.pop("sliding_window")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=LlamaConfig(**text),
        image_token_index=image_id,
        image_token_id=image_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config).eval()
    _randomize(model, seed)
    # The processor of the released checkpoint is CLIP's.
    image_class = CLIPImageProcessor if backend == "torchvision" else CLIPImageProcessorPil
    processor = LlavaProcessor(
        image_processor=image_class(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


OTHER_DECODERS: dict[str, dict[str, Any]] = {
    "qwen2": {},  # biases in attention
    "qwen2-windows": {
        "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 6,
        "max_window_layers": 3,
    },
    "qwen3": {},  # norms of queries and keys
    "llama-3.1": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    },
    "mistral-window": {"model_type": "mistral", "sliding_window": 5},
    "gemma2": {"sliding_window": 5, "attn_logit_softcapping": 1.0},
    "gemma3_text": {"sliding_window": 5, "tie_word_embeddings": True},  # two kinds of rotation
    "phi3": {},  # fused maps
}  # fmt: skip
"""Decoders in no row of the table, or unlike their row's, and what is particular about them."""


def make_other_decoder(folder: Path, name: str, **changes: Any) -> Path:
    """Write a random model of `OTHER_DECODERS`, of 6 blocks, to `folder`; returns it."""
    settings = {"model_type": name, "num_key_value_heads": 1, **OTHER_DECODERS[name], **changes}
    return make_tiny_llm(folder, num_blocks=6, **settings)


def make_tiny_llm(
    folder: Path,
    *,
    seed: int = 0,
    model_type: str = "mistral",
    num_blocks: int = 8,
    **settings: Any,
) -> Path:
    """Write a random Mistral (8 blocks of width 96), or its like, to `folder`; returns it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    settings = {**_text_settings(tokenizer, num_blocks), **settings}
    config = AutoConfig.for_model(model_type, **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    _randomize(model, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens that puts `<s>` in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def _text_settings(tokenizer: Any, num_blocks: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "sliding_window": None,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }


def _randomize(model: Any, seed: int) -> None:
    """Draw every weight from `seed`, large enough to matter: at 0.02 all states look alike."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter is embeddings:
                parameter.normal_(generator=generator)
            elif parameter.ndim > 1 or "embedding" in name or "newline" in name:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
                parameter.normal_(std=fan_in**-0.5, generator=generator)
