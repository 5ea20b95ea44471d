"""A COCO folder as an index of images with what is annotated about them.

Any of COCO's layouts: `train2017/ val2017/ test2017/`, `train2014/ val2014/`, the same below
`images/`, one flat `images/`, or images in the root itself; `annotations/captions_SPLIT.json` and
`instances_SPLIT.json` where there are any.
"""

import contextlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcb.errors import MmcbError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
ANNOTATIONS = "annotations"

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


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image and what COCO's annotators said about it."""

    file: ImageFile
    image_id: int | None = None
    captions: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    license: int | None = None


def list_images(
    root: Path,
    *,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    hint: str | None = None,
) -> list[ImageFile]:
    """The image files of a COCO folder, in the order of its folders and their names.

    Args:
        root: The COCO folder.
        splits: Folders to take, in this order; by default train*, val*, then unnamed ones.
        limit: Stop after so many.
        hint: What to do when there is no such folder.

    Raises:
        MmcbError: The folder or a split is missing, or holds no images.
    """
    root = Path(root)
    if not root.is_dir():
        raise MmcbError(f"no COCO folder at {root}", hint=hint)
    folders = _image_folders(root)
    if not folders:
        raise MmcbError(
            f"{root} holds no images: neither train2017, val2017, images... nor files of its own",
            hint=hint,
        )
    images: list[ImageFile] = []
    for name in _chosen(folders, splits, root=root):
        images += [ImageFile(path, name) for path in _images_in(folders[name])]
        if limit is not None and len(images) >= limit:
            return images[:limit]
    if not images:
        raise MmcbError(f"no image in {root} ({', '.join(folders) or 'no folder'})", hint=hint)
    return images


def read_annotations(root: Path, images: Sequence[ImageFile]) -> list[CocoImage]:
    """The images with their captions, categories and licences, as far as annotated.

    Only the annotation files of the images' own folders are read.

    Raises:
        MmcbError: An annotation file is not COCO's JSON.
    """
    by_split: dict[str, list[ImageFile]] = defaultdict(list)
    for image in images:
        by_split[image.split].append(image)
    known: dict[str, CocoImage] = {}
    for split, files in by_split.items():
        for annotated in _annotate(root / ANNOTATIONS, split, files):
            known[annotated.file.key] = annotated
    return [known[image.key] for image in images]


def _image_folders(root: Path) -> dict[str, Path]:
    """Folders with images by their name; a folder `images` may hold the splits itself."""
    folders: dict[str, Path] = {}
    for parent in (root, root / "images"):
        if not parent.is_dir():
            continue
        for path in sorted(parent.iterdir()):
            if path.is_dir() and _SPLIT_NAME.fullmatch(path.name):
                folders.setdefault(path.name, path)
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
    return folder.is_dir() and next(iter(_iterate_images(folder)), None) is not None


def _images_in(folder: Path) -> list[Path]:
    return sorted(_iterate_images(folder))


def _iterate_images(folder: Path) -> Iterable[Path]:
    # Hidden files are droppings of other systems: ._000000000009.jpg.
    return (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and not path.is_dir()
    )


def _annotate(folder: Path, split: str, files: Sequence[ImageFile]) -> list[CocoImage]:
    """The images of one split; a flat folder takes what any annotation file says of its names."""
    named = _SPLIT_NAME.fullmatch(split) is not None
    captions: dict[str, tuple[str, ...]] = {}
    categories: dict[str, tuple[str, ...]] = {}
    info: dict[str, dict[str, object]] = {}
    wanted = {file.path.name for file in files}
    for kind, found in (("captions", captions), ("instances", categories)):
        pattern = f"{kind}_{split}.json" if named else f"{kind}*.json"
        for path in sorted(folder.glob(pattern)):
            _read_file(path, wanted=wanted, found=found, info=info)
    images = []
    for file in files:
        name = file.path.name
        about = info.get(name, {})
        number, licence = about.get("id"), about.get("license")
        images.append(
            CocoImage(
                file=file,
                image_id=number if isinstance(number, int) else file.number,
                captions=captions.get(name, ()),
                categories=categories.get(name, ()),
                license=licence if isinstance(licence, int) else None,
            )
        )
    return images


def _read_file(
    path: Path,
    *,
    wanted: set[str],
    found: dict[str, tuple[str, ...]],
    info: dict[str, dict[str, object]],
) -> None:
    """Add what one annotation file says: captions, or the names of the annotated categories."""
    from pycocotools.coco import COCO

    try:
        # pycocotools prints as it goes, and has no switch for it.
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        for number, image in coco.imgs.items():
            name = Path(str(image["file_name"])).name
            if name not in wanted:
                continue
            info[name] = {**info.get(name, {}), **image}
            said = coco.imgToAnns.get(number, [])
            texts = [" ".join(str(a["caption"]).split()) for a in said if "caption" in a]
            texts += [
                coco.cats[a["category_id"]]["name"]
                for a in said
                if a.get("category_id") in coco.cats
            ]
            if texts:
                # dict: COCO repeats a category for each object; the first mention counts.
                found[name] = tuple(dict.fromkeys((*found.get(name, ()), *filter(None, texts))))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AssertionError) as error:
        raise MmcbError(
            f"{path} is not a COCO annotation file: {type(error).__name__}: {error}",
            hint="download it again, or move it away: images need no annotations",
        ) from None
