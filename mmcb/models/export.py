"""Writing models out: an adapter, or a merged checkpoint in the hub's own layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.models.families import Family
from mmcb.models.loading import LoadedModel, load_model

# transformers 5 renamed these modules; the hub's files, transformers 4 and vLLM keep the old names.
# vLLM 0.32 looks for CLIP's weights under `vision_tower.vision_model.` and nowhere else.
_LLAVA_NAMES = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
    (r"^model\.vision_tower\.vision_model\.", "vision_tower.vision_model."),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    (r"^model\.image_newline$", "image_newline"),
)
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 takes for --max-lora-rank: the smallest that an adapter fits into."""

_HUB_NAMES = {"llava_next": _LLAVA_NAMES, "llava": _LLAVA_NAMES}


def save_adapter(
    loaded: LoadedModel, path: Path, *, weights: Mapping[str, Tensor] | None = None
) -> Path:
    """Write the LoRA weights and their config to `path`, as PEFT and vLLM read them; returns it.

    The config names the base as the user did, or by its hub id: never by a path that transformers
    resolved, which holds on one machine only.

    Args:
        loaded: a model with an adapter.
        path: folder to write.
        weights: the adapter's tensors by their names in `loaded.model`, where that holds only a
            part of them; None for its own.

    Raises:
        MmcbError: the model has no adapter.
    """
    if not hasattr(loaded.model, "get_base_model"):
        raise MmcbError(f"{loaded.name} has no adapter to save", hint="train one first")
    for config in loaded.model.peft_config.values():
        config.base_model_name_or_path = hub_id_of(loaded) or loaded.name
        config.revision = loaded.revision if hub_id_of(loaded) else None
    state = None if weights is None else dict(weights)
    # No embeddings: to find out whether to save them, PEFT would ask the hub about the base.
    loaded.model.save_pretrained(str(path), state_dict=state, save_embedding_layers=False)
    return path


def hub_id_of(loaded: LoadedModel) -> str | None:
    """The model's id on the hub, None for a folder or a shipped model."""
    if loaded.name == loaded.family.name:
        return loaded.family.hub_id
    return None if Path(loaded.name).is_dir() else loaded.name


def merge_adapter(
    loaded_or_name: LoadedModel | str, adapter: Path, path: Path, *, dtype: str = "auto"
) -> Path:
    """Add an adapter to its base model and write the whole checkpoint to `path`; returns it.

    The base is loaded afresh and whole (a loaded model may have lost its last blocks), on the CPU.
    Keys are named as in the hub's files, so transformers and vLLM both load the result.

    Args:
        loaded_or_name: the base model.
        adapter: folder of the adapter.
        path: folder to write; made if missing.
        dtype: precision to save in; `auto` keeps the checkpoint's own.

    Raises:
        MmcbError: see `load_model`.
    """
    name = loaded_or_name if isinstance(loaded_or_name, str) else loaded_or_name.name
    kept = "stored" if dtype == "auto" else dtype
    loaded = load_model(name, adapter=adapter, device="cpu", dtype=kept)
    merged = loaded.model.merge_and_unload()
    save_weights(merged, path, family=loaded.family)
    merged.config.save_pretrained(str(path))
    if merged.can_generate():
        merged.generation_config.save_pretrained(str(path))
    loaded.processor.save_pretrained(str(path))
    image_processor = getattr(loaded.processor, "image_processor", None)
    if image_processor is not None:
        # transformers 5 keeps this inside processor_config.json; others still look for the file.
        image_processor.save_pretrained(str(path))
    return path


def hub_key(name: str, *, family: Family) -> str:
    """A parameter's name in the hub's files, from its name in the loaded transformers model."""
    for pattern, replacement in _HUB_NAMES.get(family.config_model_type, ()):
        renamed, changed = re.subn(pattern, replacement, name)
        if changed:
            return renamed
    return name


def save_weights(model: Any, path: Path, *, family: Family) -> None:
    """Write a model's weights to `path` under the hub's names; older ones there go."""
    from huggingface_hub import save_torch_state_dict

    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    state: dict[str, Tensor] = {
        hub_key(name, family=family): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    path.mkdir(parents=True, exist_ok=True)
    for old in [*path.glob("*.safetensors"), *path.glob("*.safetensors.index.json")]:
        # Shards of an earlier export with another count would be loaded beside the new ones.
        old.unlink()
    save_torch_state_dict(state, str(path), max_shard_size="5GB", metadata={"format": "pt"})
