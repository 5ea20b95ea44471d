"""Settings of `python -m mmcb.captioning`. No torch: `--help` answers at once."""

from pathlib import Path

from pydantic import Field, model_validator

from mmcb.coco.config import ImagesConfig, output_folder
from mmcb.config import Config
from mmcb.generation.config import EngineConfig, EngineFlags
from mmcb.models.families import FAMILIES

DEFAULT_PROMPT = "Describe this image in detail."

SHARDS = "shards"
"""The folder with the shards' folders, in the output folder."""


class CaptioningConfig(ImagesConfig):
    """Caption the images of a COCO folder."""

    model: str = "llava-next"
    """Vision-language model: family, hub id or folder of a checkpoint."""

    shard: str | None = Field(default=None, pattern=r"^[1-9]\d*/[1-9]\d*$")
    """Caption only part i of n of these images, such as 1/4, into shards/ in the output folder;
    `mmcb merge` joins the parts."""

    prompt: str = Field(default=DEFAULT_PROMPT, min_length=1)
    """What the model is asked about each image."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest caption, in tokens."""

    batch_size: int = Field(default=16, ge=1)
    """Images captioned at once."""

    engine: EngineFlags = EngineConfig()
    """What runs the model."""

    @model_validator(mode="after")
    def _shard_exists(self) -> "CaptioningConfig":
        if self.shard_of is not None and self.shard_of[0] > self.shard_of[1]:
            raise ValueError(f"shard {self.shard} does not exist: parts count from 1 to n")
        return self

    @property
    def shard_of(self) -> tuple[int, int] | None:
        """(i, n), i from 1; None for the whole."""
        if self.shard is None:
            return None
        number, _, parts = self.shard.partition("/")
        return int(number), int(parts)

    @property
    def folder(self) -> Path:
        """Where captions.jsonl goes."""
        folder = super().folder
        if self.shard_of is None:
            return folder
        return folder / SHARDS / "{}-of-{}".format(*self.shard_of)


SHARD_RESUMABLE = frozenset({"coco_root", "out", "batch_size"})
"""What may change when a shard is taken up again, and differ between shards: where it runs, and
how many images at once."""


class MergeConfig(Config):
    """Join the shards of a captioning run, after a look whether they make a whole."""

    coco_root: Path = Path("data/coco")
    """The COCO folder that was captioned; only its name is used."""

    out: Path | None = None
    """Folder with shards/, and for captions.jsonl (default: data/synthesis/NAME of the COCO
    folder)."""

    @property
    def folder(self) -> Path:
        """Where the shards lie, and captions.jsonl goes."""
        return output_folder(self.coco_root, self.out)


def preset(model: str) -> CaptioningConfig:
    """The settings that suit a model: the shipped ones write short captions."""
    family = FAMILIES.get(model)
    if family is not None and family.local_path is not None:
        return CaptioningConfig(model=model, max_new_tokens=64, batch_size=32)
    return CaptioningConfig(model=model)
