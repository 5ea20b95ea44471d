"""Settings of `python -m mmcb.retain`. No torch: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from mmcb.config import Config, UnitFraction
from mmcb.curation.config import OverlapConfig
from mmcb.generation.config import EngineConfig, EngineFlags
from mmcb.sources.source import SourceFlag, read_sources


class MixConfig(Config):
    """How much of what goes into a retain set."""

    out: Path = Path("data/retain")
    """Folder for the set."""

    retain_data: tuple[SourceFlag, ...] = ()
    """Conversations to take, as training takes them: a format (mmcb, upstream, chat, xstest, llava,
    alpaca), a colon, a file or hub id, and @ how many of it."""

    image_folder: Path | None = None
    """Folder that the image paths of llava sources begin in, such as data/coco/train2017."""

    synthesis: Path | None = None
    """Folder of `mmcb synthesis`, whose retain.jsonl the next four parts are taken from."""

    twins: int = Field(default=2000, ge=0)
    """Benign how-to twins of the circuit-breaker queries, from --synthesis."""

    refusals: int = Field(default=1000, ge=0)
    """Refusals of the circuit-breaker queries by the target model itself, from --synthesis."""

    captions: int = Field(default=1000, ge=0)
    """Captions of pictures, from --synthesis."""

    questions: int = Field(default=1000, ge=0)
    """Questions about pictures, from --synthesis."""

    borderline: tuple[Path, ...] = ()
    """Files of prompts that look harmful and are not (XSTest, JailbreakBench's benign half, one a
    line in .txt): --model answers them, and what it does not refuse is kept."""

    num_borderline: int = Field(default=500, ge=1)
    """Answers to --borderline to keep."""

    model: str = "llava-next"
    """The model to defend, which answers --borderline."""

    max_new_tokens: int = Field(default=512, ge=1)
    """Longest answer to a borderline prompt, in tokens; one that is cut there is not kept."""

    batch_size: int = Field(default=16, ge=1)
    """Answers written at once."""

    heldout_fraction: UnitFraction = 0.02
    """Share of --retain-data and --borderline that is kept out of training."""

    parquet: bool = False
    """Write the set as Parquet too, with the images in it."""

    gallery: bool = True
    """Write static pages to review the set by eye."""

    engine: EngineFlags = EngineConfig()
    """What runs the model."""

    seed: int = 0
    """Seed of what is drawn and held out."""

    @field_validator("retain_data", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return read_sources(value, kind="retain")


class RetainConfig(OverlapConfig, MixConfig):
    """Mix a retain set: so many of each part, nothing that the model is measured on."""


RESUMABLE = frozenset({"batch_size", "engine", "parquet", "gallery", "out"})
"""Settings that may change when a folder's work is taken up again."""
