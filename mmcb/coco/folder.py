"""Where a COCO folder keeps its images and annotations.

Any of COCO's layouts: `train2017/ val2017/ test2017/`, `train2014/ val2014/`, the same below
`images/` or packed twice (`train2017/train2017/`), one flat `images/`, or images in the root;
`annotations/captions_SPLIT.json` and `instances_SPLIT.json` where there are any.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcb.errors import MmcbError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

_SPLIT_NAME = re.compile(r"(train|val|test|unlabeled)(\d*)", re.IGNORECASE)
# Training images first, test images never unless they are asked for by name.
_DEFAULT_ORDER = {"train": 0, "val": 1, "": 2}


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image of the folder, before anything is known about what it shows."""

    path: Path
    split: str
    """Name of the folder it stands in, such as train2017; "" for the root."""

    @property
    def key(self) -> str:
        """What it is called, wherever the COCO folder lies: `train2017/000000000009.jpg`."""
        return f"{self.split}/{self.path.name}" if self.split else self.path.name

    @property
    def number(self) -> int | None:
        """COCO's image id as the file's name gives it: the digits at its end."""
        digits = re.search(r"(\d{1,18})$", self.path.stem)
        return int(digits[1]) if digits else None


def image_folders(
    root: Path, *, splits: Sequence[str] | None = None, hint: str | None = None
) -> dict[str, Path]:
    """The folders to take images from, by the split's name ("" for the root), in order.

    Args:
        root: The COCO folder.
        splits: Folders to take, in this order; by default train*, val*, then unnamed ones.
        hint: A command that needs no such folder, to be told when it is not there.

    Raises:
        MmcbError: The folder or a split is missing, or there is no folder of images.
    """
    root = Path(root)
    if not root.is_dir():
        get = "`python -m mmcb.coco.download --split val2017` gets COCO"
        raise MmcbError(
            f"no COCO folder at {root}", hint=get if hint is None else f"{get}; without: {hint}"
        )
    folders = _all_folders(root)
    if not folders:
        raise MmcbError(
            f"{root} holds no images: neither train2017, val2017, images... nor files of its own",
            hint=hint,
        )
    return {name: folders[name] for name in _chosen(folders, splits, root=root)}


def iterate_images(folder: Path) -> Iterator[Path]:
    """The image files right in a folder, in no order."""
    with os.scandir(folder) as entries:  # iterdir lists the whole folder first
        for entry in entries:
            # Hidden files are droppings of other systems: ._000000000009.jpg.
            hidden = entry.name.startswith(".")
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in IMAGE_SUFFIXES and not hidden and not entry.is_dir():
                yield Path(entry.path)


def annotation_files(root: Path, kind: str, split: str) -> list[Path]:
    """The annotation files of a kind (`instances`) that speak of a split's images.

    A flat folder is spoken of by all of them.
    """
    pattern = f"{kind}_{split}.json" if _SPLIT_NAME.fullmatch(split) else f"{kind}_*.json"
    # The second is what unpacking annotations_trainval2017.zip into a folder of its name leaves.
    folders = [root / "annotations", *sorted(root.glob("annotations*/annotations"))]
    return [path for folder in folders for path in sorted(folder.glob(pattern))]


def _all_folders(root: Path) -> dict[str, Path]:
    """Folders with images by their name; a folder `images` may hold the splits itself."""
    folders: dict[str, Path] = {}
    for parent in (root, root / "images"):
        if not parent.is_dir():
            continue
        for path in sorted(parent.iterdir()):
            if path.is_dir() and _SPLIT_NAME.fullmatch(path.name):
                inner = path / path.name
                folders.setdefault(path.name, inner if inner.is_dir() else path)
    if _has_images(root / "images"):
        folders["images"] = root / "images"
    if not folders and _has_images(root):
        folders[""] = root
    return folders


def _chosen(folders: dict[str, Path], splits: Sequence[str] | None, *, root: Path) -> Sequence[str]:
    if splits is not None:
        for name in splits:
            if name not in folders:
                raise MmcbError(
                    f"{root} has no image folder {name!r}",
                    hint=f"--splits takes: {' '.join(folders)}",
                )
        return list(dict.fromkeys(splits))

    def order(name: str) -> tuple[int, str]:
        match = _SPLIT_NAME.fullmatch(name)
        return _DEFAULT_ORDER.get(match[1].lower() if match else "", -1), name

    chosen = sorted((name for name in folders if order(name)[0] >= 0), key=order)
    if not chosen:
        raise MmcbError(
            f"{root} has neither train* nor val* images, only {', '.join(folders)}",
            hint=f"name the folder to take: --splits {next(iter(folders))}",
        )
    return chosen


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and next(iterate_images(folder), None) is not None
