"""A model's template, tokenizer and processor without its weights: for engines that load those."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.models.families import Family
from mmcb.models.generic import row_or_generic
from mmcb.models.loading import folder_revision, load_processor, read_config
from mmcb.models.locate import Location, locate


@dataclass(frozen=True, slots=True)
class ModelReader:
    """How a model reads and writes text and images."""

    name: str
    """What the user called it."""
    family: Family
    """Its row in the table."""
    location: Location
    """Where its files are."""
    config: Any
    """Its transformers config."""
    generation_config: Any
    """The checkpoint's own generation settings; None without a file of them."""
    processor: Any
    """For text and images; for an LLM the tokenizer again."""
    tokenizer: Any
    """Pads on the left."""
    revision: str | None
    """Hub commit, or a hash of local weights; None when unknown."""

    @property
    def is_vlm(self) -> bool:
        """Whether it takes images."""
        return self.family.kind == "vlm"


def read_model(name: str) -> ModelReader:
    """Read everything of a model but its weights.

    Raises:
        MmcbError: as `load_model`.
    """
    location = locate(name)
    config = read_config(name)
    family = location.family or row_or_generic(config, name=name)
    processor, tokenizer = load_processor(location, family)
    revision = getattr(config, "_commit_hash", None) or folder_revision(Path(location.source))
    return ModelReader(
        name=name,
        family=family,
        location=location,
        config=config,
        generation_config=_generation_config(location),
        processor=processor,
        tokenizer=tokenizer,
        revision=revision,
    )


def _generation_config(location: Location) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(
            location.source, local_files_only=location.local_only
        )
    except OSError:
        return None
