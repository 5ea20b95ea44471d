"""Settings of `python -m mmcb.captioning`. No torch: `--help` answers at once."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mmcb.config import Config
from mmcb.generation.config import EngineConfig, EngineFlags
from mmcb.models.families import FAMILIES

DATA_ROOT = Path("data/synthesis")
"""Where the sets made from a COCO folder go: one folder for each, by its name."""

DEFAULT_PROMPT = "Describe this image in detail."


SHARDS = "shards"
"""The folder with the shards' folders, in the output folder."""


def output_folder(coco_root: Path, out: Path | None) -> Path:
    """The folder that captions and sets are written to: `out`, or the COCO folder's own."""
    if out is not None:
        return out
    # abspath: `.` and `..` have a name too.
    return DATA_ROOT / (Path(os.path.abspath(coco_root)).name or "coco")


class CaptioningConfig(Config):
    """Caption the images of a COCO folder."""

    coco_root: Path = Path("data/coco")
    """COCO folder: train2017, val2017, images... with images, and annotations/ if there are any."""

    source: Literal["model", "coco"] = "model"
    """Who writes the captions: --model, or the people who annotated COCO."""

    model: str = "llava-next"
    """Vision-language model: family, hub id or folder of a checkpoint."""

    out: Path | None = None
    """Folder for captions.jsonl (default: data/synthesis/NAME of the COCO folder)."""

    splits: tuple[str, ...] | None = None
    """Image folders to take, in this order (default: train*, val*, images; never test*)."""

    num_images: int | None = Field(default=5000, ge=1)
    """Caption so many images, chosen so that COCO's categories are covered evenly; None for all.
    A larger number takes the same images and more."""

    seed: int = 0
    """Decides which images --num-images takes among those that serve the categories equally."""

    licenses: tuple[str, ...] | None = None
    """Take only images under these licences, by COCO's numbers or names: 4 5 "Attribution License"
    (default: all)."""

    shard: str | None = Field(default=None, pattern=r"^[1-9]\d*/[1-9]\d*$")
    """Caption only part i of n of these images, such as 1/4, into shards/ in the output folder;
    `mmcb merge` joins the parts."""

    captions_per_image: int = Field(default=1, ge=1)
    """Human captions to take of each image (COCO has five); a model writes one."""

    prompt: str = Field(default=DEFAULT_PROMPT, min_length=1)
    """What the model is asked about each image."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest caption, in tokens."""

    batch_size: int = Field(default=16, ge=1)
    """Images captioned at once."""

    engine: EngineFlags = EngineConfig()
    """What runs the model."""

    @model_validator(mode="after")
    def _one_caption_from_a_model(self) -> "CaptioningConfig":
        if self.source == "model" and self.captions_per_image > 1:
            raise ValueError("captions_per_image above 1 needs --source coco")
        return self

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
        folder = output_folder(self.coco_root, self.out)
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
