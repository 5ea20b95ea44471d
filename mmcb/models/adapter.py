"""Putting a trained adapter on a model, and making sure that it belongs there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def put_adapter(model: Any, folder: Path) -> Any:
    """Wrap a transformers model in a PeftModel with the adapter in a folder, frozen.

    Raises:
        MmcbError: no adapter, a damaged one, or one that was trained on another kind of model. Of
            two models of one class and shape nothing tells the difference.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    for filename in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / filename).is_file():
            raise MmcbError(
                f"{folder} is not an adapter: it has no {filename}",
                hint="give the adapter/ folder of a training run",
            )
    try:
        trained_on, loaded_now = _base_class(folder), type(model).__name__
        if trained_on not in (None, loaded_now):
            raise ValueError(f"it was trained on a {trained_on}, and this is a {loaded_now}")
        wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
        # Whether to save embeddings too is what PEFT would ask the hub, by name; with the model's
        # own names beside its answer it need not.
        places = {*get_peft_model_state_dict(wrapped, save_embedding_layers=False)}
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            # PEFT passes over weights for which the model has no place.
            homeless = sorted({*file.keys()} - places - {*wrapped.state_dict()})
        if homeless:
            raise ValueError(f"there is no place for {homeless[0]}")
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise MmcbError(
            f"the adapter in {folder} does not fit this model: {_in_a_line(error)}",
            hint="give the model that it was trained on",
        ) from error
    return wrapped


def _base_class(folder: Path) -> str | None:
    """Name of the transformers class that an adapter was trained on, where it says so."""
    settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    name = (settings.get("auto_mapping") or {}).get("base_model_class")
    return None if name is None else str(name)


def _in_a_line(error: Exception) -> str:
    """What PEFT says first: the reason stands in its second line, if it has one."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
