"""Loading a model: base, optional adapter, and only as many decoder blocks as the job needs."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmcb.errors import MmcbError
from mmcb.models.adapter import put_adapter
from mmcb.models.families import Family
from mmcb.models.generic import keep_blocks, row_or_generic
from mmcb.models.locate import Location, locate

_HASH_LIMIT_BYTES = 1 << 30
"""Local weights up to this size are hashed for provenance; a 7B folder would take a minute."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, in eval mode, with what it needs to read text and images."""

    name: str
    """What the user called it."""
    family: Family
    """Its row in the table."""
    model: Any
    """The transformers model, or a PeftModel around it."""
    processor: Any
    """For text and images; for an LLM the tokenizer again."""
    tokenizer: Any
    """Pads on the left."""
    revision: str | None
    """Hub commit, or a hash of local weights; None when unknown."""

    @property
    def base(self) -> Any:
        """The transformers model itself, without the PEFT wrapper (adapters stay in its layers)."""
        getter = getattr(self.model, "get_base_model", None)
        return self.model if getter is None else getter()

    @property
    def config(self) -> Any:
        """The transformers config."""
        return self.base.config

    @property
    def device(self) -> torch.device:
        """Where the token embeddings are; inputs go there."""
        weight = self.base.get_input_embeddings().weight
        assert isinstance(weight, torch.Tensor)
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the model computes in."""
        weight = self.base.get_input_embeddings().weight
        assert isinstance(weight, torch.Tensor)
        return weight.dtype

    @property
    def is_vlm(self) -> bool:
        """Whether it takes images."""
        return self.family.kind == "vlm"

    @property
    def decoder(self) -> Any:
        """The decoder: `embed_tokens`, `layers`, `norm`, `rotary_emb`, `config`."""
        return self.base.get_submodule(self.family.decoder)

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The decoder's blocks, as many as were loaded."""
        layers = self.base.get_submodule(self.family.decoder_layers)
        assert isinstance(layers, nn.ModuleList)
        return layers

    @contextlib.contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """Inside, the model is the frozen base; without an adapter nothing changes."""
        disable = getattr(self.model, "disable_adapter", None)
        # transformers' own models have a method of the same name (a PEFT mixin); ask for the type.
        if disable is None or not hasattr(self.model, "get_base_model"):
            yield
            return
        with disable():
            yield


def load_model(
    name: str,
    *,
    adapter: Path | None = None,
    num_blocks: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    move: bool = True,
) -> LoadedModel:
    """Load a model by family name, hub id or folder, in eval mode with frozen parameters.

    Args:
        name: a name of the table, `owner/model`, or a folder written by `save_pretrained`.
        adapter: a LoRA folder to put on top.
        num_blocks: keep only the first blocks; the rest is never read from disk.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`...
        dtype: `auto` (float32 on a CPU and for float32 checkpoints, else bfloat16), `float32`,
            `bfloat16` or `float16`; `stored` keeps the checkpoint's.
        move: False leaves the weights on the CPU, in the precision for the device.

    Raises:
        MmcbError: unknown name, no network for a checkpoint that is not cached (within seconds),
            a damaged checkpoint, a bad adapter folder, more blocks than the model has.
    """
    location = locate(name)
    config = _load_config(location, name=name)
    family = location.family or row_or_generic(config, name=name)
    _refuse_quantized(config, name=name)
    text_config = config.get_text_config()
    if num_blocks is not None:
        _keep_blocks(text_config, num_blocks, name=name)
    where = _pick_device(device)
    processor, tokenizer = load_processor(location, family)  # first: it takes no time to fail
    model = _load_weights(location, config, family, dtype=pick_dtype(dtype, config, where))
    if adapter is not None:
        model = put_adapter(model, adapter)
    model = (model.to(where) if move else model).eval()
    model.requires_grad_(False)
    revision = getattr(config, "_commit_hash", None) or folder_revision(Path(location.source))
    return LoadedModel(name, family, model, processor, tokenizer, revision)


def read_config(name: str) -> Any:
    """The transformers config of a model, without its weights.

    Raises:
        MmcbError: as `load_model`.
    """
    return _load_config(locate(name), name=name)


def _load_config(location: Location, *, name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            location.source, local_files_only=location.local_only, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise MmcbError(
            f"cannot read the config of {name}: {_first_line(error)}",
            hint="check the folder, or give a model that mmcb knows",
        ) from error


def _keep_blocks(text_config: Any, num_blocks: int, *, name: str) -> None:
    if not 1 <= num_blocks <= text_config.num_hidden_layers:
        raise MmcbError(
            f"{name} has {text_config.num_hidden_layers} decoder blocks, {num_blocks} asked for",
            hint="lower the target layers",
        )
    keep_blocks(text_config, num_blocks)


def _refuse_quantized(config: Any, *, name: str) -> None:
    settings = getattr(config, "quantization_config", None)
    if settings is not None:
        method = settings.get("quant_method") if isinstance(settings, dict) else settings
        raise MmcbError(
            f"the weights of {name} are quantized ({method}): they cannot be trained, merged or"
            " attacked here",
            hint="give the checkpoint that they were made from",
        )


def _pick_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise MmcbError(f"no such device: {device!r}", hint="use auto, cpu or cuda") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise MmcbError("this machine has no usable GPU", hint="use --device cpu")
    return where


def pick_dtype(dtype: str, config: Any, device: torch.device) -> torch.dtype:
    """The precision that `load_model`'s `dtype` means for this checkpoint and device."""
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    stored = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    stored = _DTYPES.get(stored, torch.float32) if isinstance(stored, str) else stored
    if dtype == "stored":
        return stored or torch.float32
    if dtype != "auto":
        raise MmcbError(f"no such dtype: {dtype!r}", hint=f"use auto, {', '.join(_DTYPES)}")
    # A CPU is no faster in half precision, and float32 checkpoints are small ones here.
    if device.type == "cpu" or stored in (None, torch.float32):
        return torch.float32
    return torch.bfloat16


def _load_weights(location: Location, config: Any, family: Family, *, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging as hf_logging

    auto: Any = AutoModelForImageTextToText if family.kind == "vlm" else AutoModelForCausalLM
    # Blocks that are left out would be listed as unexpected weights; what is missing we check.
    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    if family.hub_id is None or not sys.stderr.isatty():
        hf_logging.disable_progress_bar()
    try:
        model, info = auto.from_pretrained(
            location.source,
            config=config,
            dtype=dtype,
            attn_implementation=_attention(config),
            local_files_only=location.local_only,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise MmcbError(
            f"cannot load {location.source}: {_first_line(error)}",
            hint="check that the checkpoint is whole and holds safetensors",
        ) from error
    finally:
        hf_logging.set_verbosity(verbosity)
        if bar:
            hf_logging.enable_progress_bar()
    # transformers fills what is missing with random numbers and goes on; a damaged file must stop.
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise MmcbError(
            f"{location.source} lacks {len(wrong)} weights of the model, {wrong[0]} first",
            hint="get the checkpoint again",
        )
    return model


def _attention(config: Any) -> str:
    """sdpa; but Gemma 2's soft caps on attention it would leave out without a word."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped else "sdpa"


def load_processor(location: Location, family: Family) -> tuple[Any, Any]:
    """The processor (of an LLM, the tokenizer) and the tokenizer, which pads on the left."""
    from transformers import AutoProcessor, AutoTokenizer

    auto: Any = AutoProcessor if family.kind == "vlm" else AutoTokenizer
    try:
        processor = auto.from_pretrained(
            location.source, local_files_only=location.local_only, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise MmcbError(
            f"cannot load the processor of {location.source}: {_first_line(error)}",
            hint="check that the folder holds the tokenizer and processor files",
        ) from error
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor, tokenizer


def folder_revision(folder: Path) -> str | None:
    """`sha256:...` over the safetensors of a folder, None for hub ids and for huge folders."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files or sum(file.stat().st_size for file in files) > _HASH_LIMIT_BYTES:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
