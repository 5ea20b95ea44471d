"""COCO's own archives: where they are, how long they are, and their SHA-256.

Sizes and hashes are those that TensorFlow Datasets checks (url_checksums/coco.txt). The host speaks
HTTP only (its HTTPS certificate is another name's), so the hash is what vouches for the content.
"""

from dataclasses import dataclass
from pathlib import Path

BASE_URL = "http://images.cocodataset.org"


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file of COCO's."""

    path: str
    """Below the host."""
    size: int
    """In bytes."""
    sha256: str
    holds: tuple[tuple[str, int], ...]
    """Patterns of what it unpacks to, each with the number of files."""
    growth: float = 1.0
    """How many bytes a byte of it unpacks to, as far as known beforehand: JPEGs do not shrink."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]

    def is_unpacked(self, root: Path) -> bool:
        """Whether all its files stand in a COCO folder."""
        return all(sum(1 for _ in root.glob(pattern)) >= count for pattern, count in self.holds)


def _images(split: str, count: int, size: int, sha256: str) -> Archive:
    return Archive(f"zips/{split}.zip", size, sha256, ((f"{split}/*.jpg", count),))


def _annotations(name: str, size: int, sha256: str, *holds: tuple[str, int]) -> Archive:
    return Archive(f"annotations/{name}.zip", size, sha256, holds, growth=5.0)


IMAGES = {
    "train2017": _images(
        "train2017",
        118287,
        19336861798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "val2017": _images(
        "val2017",
        5000,
        815585330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    "test2017": _images(
        "test2017",
        40670,
        6646970404,
        "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba",
    ),
    "train2014": _images(
        "train2014",
        82783,
        13510573713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    ),
    "val2014": _images(
        "val2014",
        40504,
        6645013297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    ),
    "test2014": _images(
        "test2014",
        40775,
        6660437059,
        "ead40c62230cb2cf70ff4c8b4c70abdc260a7556e77b3282621d06d8e2e35bdf",
    ),
}
"""Archives of images, by split."""

_TRAINVAL2017 = _annotations(
    "annotations_trainval2017",
    252907541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ("annotations/*_train2017.json", 3),
    ("annotations/*_val2017.json", 3),
)
_TRAINVAL2014 = _annotations(
    "annotations_trainval2014",
    252872794,
    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ("annotations/*_train2014.json", 3),
    ("annotations/*_val2014.json", 3),
)
ANNOTATIONS = {
    "train2017": _TRAINVAL2017,
    "val2017": _TRAINVAL2017,
    "test2017": _annotations(
        "image_info_test2017",
        1144034,
        "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8",
        ("annotations/image_info_test2017.json", 1),
    ),
    "train2014": _TRAINVAL2014,
    "val2014": _TRAINVAL2014,
    "test2014": _annotations(
        "image_info_test2014",
        763464,
        "7cecc66f6b09c1671c1896a1bcc1f35eb09b7fcf00a5c18420a5f0f5983dc8c9",
        ("annotations/image_info_test2014.json", 1),
    ),
}
"""What is known of a split's images: captions and objects, or for test images ids and licences."""
