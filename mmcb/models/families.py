"""The one table where a model is added: where it lives, how it is built, and its recipe's defaults.

Pure data, no torch: commands read it to fill their `--help`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mmcb.errors import MmcbError
from mmcb.models.recipe_defaults import RecipeDefaults

LLAMA_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven linear maps of a Llama/Mistral block; upstream puts LoRA on all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of the table: a model that mmcb knows how to load, train, attack and export."""

    name: str
    """The name on the command line."""
    hub_id: str | None
    """Repository on the Hugging Face hub; None for the models in the package."""
    kind: Literal["vlm", "llm"]
    """Whether it takes images."""
    config_model_type: str
    """`model_type` in its config.json."""
    num_blocks: int
    """Decoder blocks of the full model."""
    local_path: str | None = None
    """Folder relative to the package, for the models that ship with it."""
    decoder_layers: str
    """Dotted path from the top model to the list of decoder blocks."""
    lora_modules: tuple[str, ...] = LLAMA_LINEAR
    """Last names of the linear maps inside a block that LoRA adapts."""
    defaults: RecipeDefaults
    """The recipe's defaults."""

    @property
    def decoder(self) -> str:
        """Dotted path from the top model to the decoder."""
        return self.decoder_layers.rpartition(".")[0]

    @property
    def folder(self) -> Path | None:
        """Where the shipped weights are, or None."""
        if self.local_path is None:
            return None
        return Path(__file__).resolve().parents[1] / self.local_path

    @property
    def substitute(self) -> str:
        """The shipped family of the same kind: what a hint offers instead of a download."""
        return "tiny-llava-next" if self.kind == "vlm" else "tiny-mistral"

    def lora_targets(self, first: int, last: int) -> str:
        """A full-name pattern for PEFT's `target_modules`: blocks `first` to `last`, inclusive.

        A plain suffix such as `q_proj` would also match CLIP's attention, so the pattern names the
        decoder's blocks.
        """
        blocks = "|".join(str(block) for block in range(first, last + 1))
        modules = "|".join(self.lora_modules)
        return rf"{re.escape(self.decoder_layers)}\.({blocks})\.\w+\.({modules})"


_LLAVA_LAYERS, _LLM_LAYERS = "model.language_model.layers", "model.layers"

_LLAVA_NEXT = Family(
    name="llava-next",
    hub_id="llava-hf/llava-v1.6-mistral-7b-hf",
    kind="vlm",
    config_model_type="llava_next",
    num_blocks=32,
    decoder_layers=_LLAVA_LAYERS,
    defaults=RecipeDefaults(
        # Paper, C.3: alpha 5, target layer 16, LoRA on layers 14-16, text and image batches take
        # turns, loss on all tokens after the image. We read "target layer 16" as upstream's code
        # does: hidden_states[16], the output of block 15. Block 16 then only feeds later states,
        # so `clip_lora_layers` leaves blocks 14-15. Steps, rate and batch are not reported for the
        # VLM: they are upstream's for Mistral-7B.
        reroute_weight=5.0,
        retain_weight=5.0,
        target_layers=(16,),
        lora_layers=(14, 16),
        mask="after_image",
        alternate=True,
    ),
)

# No published recipe: LLaVA-NeXT's, whose decoder has the same depth and shape. Not measured.
_LLAVA_1_5 = replace(
    _LLAVA_NEXT, name="llava-1.5", hub_id="llava-hf/llava-1.5-7b-hf", config_model_type="llava"
)

_MISTRAL = Family(
    name="mistral",
    hub_id="mistralai/Mistral-7B-Instruct-v0.2",
    kind="llm",
    config_model_type="mistral",
    num_blocks=32,
    decoder_layers=_LLM_LAYERS,
    defaults=RecipeDefaults(
        # Upstream's script: hidden_states[10] and [20] (blocks 9 and 19), LoRA on blocks 0-20.
        reroute_weight=5.0,
        retain_weight=5.0,
        target_layers=(10, 20),
        lora_layers=(0, 20),
        mask="all",
    ),
)

_LLAMA_3 = Family(
    name="llama-3",
    hub_id="meta-llama/Meta-Llama-3-8B-Instruct",
    kind="llm",
    config_model_type="llama",
    num_blocks=32,
    decoder_layers=_LLM_LAYERS,
    defaults=RecipeDefaults(
        # Upstream's lorra_circuit_breaker_llama3_8b.sh: as Mistral, alpha 10; cb_train_dataset.py
        # empties half of the requests.
        no_request_fraction=0.5,
        reroute_weight=10.0,
        retain_weight=10.0,
        target_layers=(10, 20),
        lora_layers=(0, 20),
        mask="all",
    ),
)

_TINY_LLAVA_NEXT = Family(
    name="tiny-llava-next",
    hub_id=None,
    kind="vlm",
    config_model_type="llava_next",
    num_blocks=8,
    local_path="miniature/weights/tiny-llava-next",
    decoder_layers=_LLAVA_LAYERS,
    defaults=RecipeDefaults(
        # Measured on the miniature (docs/lab-log.md). A request's first words are those of harmless
        # ones, so the answer is rerouted. Target and noise: what holds on harms never trained on.
        reroute_target="eos",
        embedding_noise=1.0,
        reroute_weight=10.0,
        retain_weight=10.0,
        target_layers=(4, 6),
        lora_layers=(0, 5),
        mask="completion",
        retain_mask="after_image",
        learning_rate=2e-3,
        steps=200,
        horizon=400,
        alternate=True,
        evaluate_after=True,
    ),
)

_TINY_MISTRAL = Family(
    name="tiny-mistral",
    hub_id=None,
    kind="llm",
    config_model_type="mistral",
    num_blocks=8,
    local_path="miniature/weights/tiny-mistral",
    decoder_layers=_LLM_LAYERS,
    # The paper's own target; 1e-3 leaves the saddle too slowly for one short run.
    defaults=replace(
        _TINY_LLAVA_NEXT.defaults,
        reroute_target="rr",
        embedding_noise=0.0,
        retain_weight=5.0,
        retain_mask="all",
        alternate=False,
    ),
)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (_LLAVA_NEXT, _LLAVA_1_5, _MISTRAL, _LLAMA_3, _TINY_LLAVA_NEXT, _TINY_MISTRAL)
}
"""Every family, by its name on the command line. Add a model here and nowhere else."""


def find_family(name: str) -> Family:
    """The family called `name`, by its short name or its hub id.

    Raises:
        MmcbError: no such family; the hint offers the nearest name.
    """
    for family in FAMILIES.values():
        if name in (family.name, family.hub_id):
            return family
    near = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise MmcbError(
        f"no model family is called {name!r}",
        hint=f"{hint}known: {', '.join(FAMILIES)}; or a hub id or a folder with config.json",
    )


def family_of_config(config: Any, *, name: str = "this model") -> Family:
    """The row that fits a model given by hub id or folder, found from its config.

    Args:
        config: a transformers config or the parsed config.json (a mapping).
        name: what to call the model in the error.

    Returns:
        The row with the same `model_type` and number of blocks; else that of the hub's model of
        this type, its layers scaled to the depth.

    Raises:
        MmcbError: no row has this `model_type`.
    """
    model_type = _get(config, "model_type")
    rows = [family for family in FAMILIES.values() if family.config_model_type == model_type]
    if not rows:
        known = ", ".join(sorted({family.config_model_type for family in FAMILIES.values()}))
        raise MmcbError(
            f"{name} has model type {model_type!r}, which mmcb does not know (known: {known})",
            hint="add a row to mmcb/models/families.py; docs/add-a-model.md says how",
        )
    text_config = _get(config, "text_config") or config
    blocks = int(_get(text_config, "num_hidden_layers") or 32)
    exact = [family for family in rows if family.num_blocks == blocks]
    return exact[0] if exact else at_depth(next(row for row in rows if row.hub_id), blocks)


def at_depth(family: Family, num_blocks: int) -> Family:
    """A row whose targets and LoRA blocks lie at the same share of another depth."""
    defaults = family.defaults

    def scaled(layer: int) -> int:
        return round(layer * num_blocks / family.num_blocks)

    targets = tuple(sorted({max(1, scaled(layer)) for layer in defaults.target_layers}))
    first, last = (scaled(block) for block in defaults.lora_layers)
    lora_layers = min(first, targets[0] - 1), min(last, num_blocks - 1)
    changed = replace(defaults, target_layers=targets, lora_layers=lora_layers)
    return replace(family, num_blocks=num_blocks, defaults=changed)


def known_family(name: str) -> Family | None:
    """The family called `name`, or None when `name` is some other hub id or a folder.

    Raises:
        MmcbError: `name` is none of these: not a family, not a folder, not `owner/model`.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if os.path.isdir(name) or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return next((family for family in FAMILIES.values() if family.hub_id == name), None)
    return find_family(name)


def _get(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
