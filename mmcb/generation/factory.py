"""From names on a command line to a generator."""

from __future__ import annotations

from pathlib import Path

from mmcb.errors import MmcbError
from mmcb.generation.config import EngineConfig
from mmcb.generation.protocol import TextGenerator
from mmcb.models.families import FAMILIES, Family, known_family
from mmcb.models.locate import locate


def make_generator(engine: EngineConfig, model: str, adapter: Path | None = None) -> TextGenerator:
    """Load `model` (family name, hub id or folder), with `adapter` on top, behind `engine`.

    Raises:
        MmcbError: the model or the engine's package cannot be had, or the server does not answer.
    """
    # torch, vLLM and openai take seconds to import: only when a model is really wanted.
    if engine.name == "vllm":
        from mmcb.generation.vllm_engine import VllmGenerator

        return VllmGenerator(model, engine, adapter=adapter)
    if engine.name == "server":
        from mmcb.generation.endpoints import find_endpoint
        from mmcb.generation.server_engine import ServerGenerator

        if adapter is not None:
            raise MmcbError(
                f"a server takes no adapter from here ({adapter})",
                hint="merge it, serve the merged checkpoint, and give that as --model",
            )
        return ServerGenerator(model, find_endpoint(engine, model), engine)
    from mmcb.generation.transformers_engine import TransformersGenerator
    from mmcb.models.loading import load_model

    loaded = load_model(model, adapter=adapter, device=engine.device, dtype=engine.dtype)
    return TransformersGenerator(loaded)


def check_available(engine: EngineConfig, model: str) -> Family | None:
    """Say now, not after an hour of other work, that `make_generator` would fail.

    Returns:
        The model's row in the table, as far as it is known without loading it.

    Raises:
        MmcbError: as `make_generator`, as far as can be seen without loading the model.
    """
    if engine.name == "server":
        from mmcb.generation.endpoints import find_endpoint

        find_endpoint(engine, model)
        return named_family(engine, model)
    if engine.name == "vllm":
        from mmcb.generation.vllm_engine import require_vllm

        require_vllm()
    return locate(model).family


def named_family(engine: EngineConfig, model: str) -> Family | None:
    """The row in the table that `model` names; None when it names something else.

    Raises:
        MmcbError: it names nothing. A server may call its models whatever it likes.
    """
    if engine.name == "server":
        return next((f for f in FAMILIES.values() if model in (f.name, f.hub_id)), None)
    return known_family(model)
