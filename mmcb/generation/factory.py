"""From names on a command line to a generator."""

from __future__ import annotations

from pathlib import Path

from mmcb.errors import MmcbError
from mmcb.generation.protocol import TextGenerator

ENGINES = ("transformers",)
"""The engines `make_generator` knows."""


def make_generator(
    engine: str,
    model: str,
    adapter: Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
) -> TextGenerator:
    """Load `model` (family name, hub id or folder), with `adapter` on top, behind `engine`.

    Raises:
        MmcbError: unknown engine or model, or the checkpoint cannot be had.
    """
    if engine not in ENGINES:
        raise MmcbError(
            f"no generation engine is called {engine!r}", hint=f"use one of: {', '.join(ENGINES)}"
        )
    # torch takes seconds to import: only when a model is really wanted.
    from mmcb.generation.transformers_engine import TransformersGenerator
    from mmcb.models.loading import load_model

    return TransformersGenerator(load_model(model, adapter=adapter, device=device, dtype=dtype))
