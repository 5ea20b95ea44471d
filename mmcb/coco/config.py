"""Settings of `python -m mmcb.coco.download`, and those of all work on a COCO folder's images."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from mmcb.coco.archives import BASE_URL
from mmcb.config import Config

DATA_ROOT = Path("data/synthesis")
"""Where what is made from a COCO folder goes: one folder for each, by its name."""

SplitName = Literal["train2017", "val2017", "test2017", "train2014", "val2014", "test2014"]


class DownloadConfig(Config):
    """Download COCO's images and annotations, check them and unpack them."""

    split: tuple[SplitName, ...] = Field(min_length=1)
    """What to get: val2017 (0.8 GB), train2017 (19 GB), test2017 (7 GB), or these of 2014."""

    coco_root: Path = Path("data/coco")
    """Folder to make or to fill up."""

    annotations: bool = True
    """Whether to get the annotations of these splits too (0.25 GB)."""

    checksum: tuple[str, ...] = ()
    """Digests to check instead of the known SHA-256, as NAME=HEX (val2017.zip=442b...); MD5, SHA-1
    or SHA-256 by its length."""

    base_url: str = Field(default=BASE_URL, pattern=r"^https?://")
    """Host to download from: COCO's own, or a mirror with the same paths."""

    keep_archives: bool = False
    """Whether to keep the zip files once they are unpacked."""

    retries: int = Field(default=8, ge=0)
    """How often in a row a connection may fail without a byte having come."""

    timeout: float = Field(default=30.0, gt=0)
    """Seconds without a byte after which a connection counts as broken."""

    @model_validator(mode="after")
    def _digests_can_be_read(self) -> "DownloadConfig":
        for text in self.checksum:
            name, equals, digest = text.rpartition("=")
            hexadecimal = all(character in "0123456789abcdefABCDEF" for character in digest)
            if not (name and equals and hexadecimal and len(digest) in (32, 40, 64)):
                raise ValueError(f"{text!r} is not NAME.zip=HEX with 32, 40 or 64 hex digits")
        return self

    @property
    def digests(self) -> dict[str, str]:
        """The digests given, by the archive's name."""
        return {text.rpartition("=")[0]: text.rpartition("=")[2].lower() for text in self.checksum}


def output_folder(coco_root: Path, out: Path | None) -> Path:
    """The folder that captions and sets are written to: `out`, or the COCO folder's own."""
    if out is not None:
        return out
    # abspath: `.` and `..` have a name too.
    return DATA_ROOT / (Path(os.path.abspath(coco_root)).name or "coco")


class ImagesConfig(Config):
    """Which images of a COCO folder are taken, and who captions them."""

    coco_root: Path = Path("data/coco")
    """COCO folder: train2017, val2017, images... with images, and annotations/ if there are any."""

    out: Path | None = None
    """Folder for what is made (default: data/synthesis/NAME of the COCO folder)."""

    source: Literal["model", "coco"] = "model"
    """Who captions what has no caption yet: --model, or the people who annotated COCO."""

    splits: tuple[str, ...] | None = None
    """Image folders to take, in this order (default: train*, val*, images; never test*)."""

    num_images: int | None = Field(default=5000, ge=1)
    """Take so many images, chosen so that COCO's categories are covered evenly; None for all. A
    larger number takes the same images and more."""

    licenses: tuple[str, ...] | None = None
    """Take only images under these licences, by COCO's numbers or names: 4 5 "Attribution License"
    (default: all)."""

    captions_per_image: int = Field(default=1, ge=1)
    """Human captions to take of each image (COCO has five); a model writes one."""

    seed: int = 0
    """Decides whatever is left to chance, such as which of the images that serve the categories
    equally are taken."""

    @model_validator(mode="after")
    def _one_caption_from_a_model(self) -> Self:
        if self.source == "model" and self.captions_per_image > 1:
            raise ValueError("captions_per_image above 1 needs --source coco")
        return self

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return output_folder(self.coco_root, self.out)
