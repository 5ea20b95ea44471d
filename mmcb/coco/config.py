"""Settings of `python -m mmcb.coco.download`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mmcb.coco.archives import BASE_URL
from mmcb.config import Config

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
