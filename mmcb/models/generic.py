"""Defaults for a decoder that no row of the table fits, and a check that we can run its blocks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmcb.errors import MmcbError
from mmcb.models.families import (
    FAMILIES,
    LLAMA_LINEAR,
    Family,
    at_depth,
    family_of_config,
)
from mmcb.models.recipe_defaults import RecipeDefaults

if TYPE_CHECKING:
    from mmcb.models.loading import LoadedModel

LAYERS = "model.layers"
"""Where transformers keeps the blocks of a Llama-like decoder."""

LINEAR = (*LLAMA_LINEAR, "qkv_proj", "gate_up_proj")
"""Maps that get an adapter where a block has them: Llama's, and those that others fuse."""

UPSTREAM = RecipeDefaults(
    reroute_weight=5.0, retain_weight=5.0, target_layers=(10, 20), lora_layers=(0, 20), mask="all"
)
"""The authors' recipe for Mistral's 32 blocks; other depths take the same share of theirs."""

TOLERANCE = 1e-2
"""Largest difference, as a share of the largest entry, between transformers' hidden states and
ours: bfloat16's rounding. A decoder that works otherwise is off by its whole size."""


def row_or_generic(config: Any, *, name: str) -> Family:
    """The row of the table that fits a config, or else one made for it.

    Args:
        config: a transformers config or the parsed config.json (a mapping).
        name: what to call the model in an error.

    Raises:
        MmcbError: as `generic_family`.
    """
    rows = {family.config_model_type for family in FAMILIES.values()}
    fits = _model_type(config) in rows
    return family_of_config(config, name=name) if fits else generic_family(config, name=name)


def generic_family(config: Any, *, name: str) -> Family:
    """A row for a decoder without one: upstream's recipe, its targets scaled by depth.

    Args:
        config: a transformers config or the parsed config.json (a mapping).
        name: what to call the model in an error.

    Raises:
        MmcbError: a model that transformers does not know, one that takes images, or a decoder
            that is not like Llama's.
    """
    model_type = _model_type(config)
    _check_type(model_type, name=name)
    block, num_blocks = _one_block(config)
    modules = tuple(
        linear
        for linear in LINEAR
        if any(path.count(".") == 1 and path.endswith(f".{linear}") for path in block)
    )
    if not modules:
        raise MmcbError(
            f"{name} has model type {model_type!r}, which is not in mmcb's table and has no"
            f" Llama-like decoder ({LAYERS} with {', '.join(LINEAR)})",
            hint="add a row to mmcb/models/families.py; docs/add-a-model.md says how",
        )
    row = Family(
        name=model_type,
        hub_id=None,
        kind="llm",
        config_model_type=model_type,
        num_blocks=32,
        decoder_layers=LAYERS,
        lora_modules=modules,
        defaults=UPSTREAM,
    )
    return at_depth(row, num_blocks)


def is_generic(family: Family) -> bool:
    """Whether a row was made for a config, and not taken from the table as it stands."""
    return family not in FAMILIES.values()


def check_decoder(loaded: LoadedModel) -> None:
    """Make sure that `run_blocks` does what the model's own forward pass does.

    Raises:
        MmcbError: it does not; training would reroute another model.
    """
    import torch

    from mmcb.models.hidden import embed_inputs, run_blocks

    ids = torch.arange(1, 13, device=loaded.device)[None]
    blocks = range(len(loaded.decoder_layers) + 1)
    with torch.no_grad():
        own = loaded.decoder(input_ids=ids, output_hidden_states=True, use_cache=False)
        embedded = embed_inputs(loaded, {"input_ids": ids})
        try:
            ours = run_blocks(
                loaded, embedded, None, None, start=0, stop=blocks[-1], collect=set(blocks)
            )
            ours[blocks[-1]] = loaded.decoder.norm(ours[blocks[-1]])
        except (TypeError, AttributeError, KeyError) as error:
            raise _unlike(loaded, f"is built otherwise: {error}") from error
    for layer, theirs in enumerate(own.hidden_states):
        difference = float((ours[layer] - theirs).abs().max() / theirs.abs().max())
        if not difference <= TOLERANCE:
            raise _unlike(loaded, f"gives other values for hidden_states[{layer}]")


def _model_type(config: Any) -> str:
    return str(config.get("model_type") if isinstance(config, Mapping) else config.model_type)


def _unlike(loaded: LoadedModel, how: str) -> MmcbError:
    return MmcbError(
        f"{loaded.name}: the decoder of model type {loaded.family.name!r} is not like Llama's: it"
        f" {how}",
        hint="docs/add-a-model.md says what run_blocks in mmcb/models/hidden.py expects",
    )


def _check_type(model_type: str, *, name: str) -> None:
    from transformers.models.auto import modeling_auto as known

    rows = ", ".join(sorted({family.config_model_type for family in FAMILIES.values()}))
    hint = "add a row to mmcb/models/families.py; docs/add-a-model.md says how"
    if model_type in known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise MmcbError(
            f"{name} has model type {model_type!r}, a vision-language model that mmcb does not"
            f" know (known: {rows})",
            hint=hint,
        )
    if model_type not in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise MmcbError(
            f"{name} has model type {model_type!r}, which neither mmcb nor transformers knows as a"
            f" language model (known to mmcb: {rows})",
            hint=hint,
        )


def _one_block(config: Any) -> tuple[list[str], int]:
    """Names of the modules in the first block, without weights, and the number of blocks."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if isinstance(config, Mapping):
        rest = {key: value for key, value in config.items() if key != "model_type"}
        config = AutoConfig.for_model(config["model_type"], **rest)
    short = copy.deepcopy(config.get_text_config())
    num_blocks = int(short.num_hidden_layers)
    keep_blocks(short, 1)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(short)
    layers = dict(model.named_modules()).get(LAYERS)
    names = [] if layers is None else [path for path, _ in layers[0].named_modules()]
    return names, num_blocks


def keep_blocks(text_config: Any, num_blocks: int) -> None:
    """Shorten a config in place: transformers then builds, and reads, only the first blocks."""
    text_config.num_hidden_layers = num_blocks
    if vars(text_config).get("layer_types"):
        text_config.layer_types = text_config.layer_types[:num_blocks]
