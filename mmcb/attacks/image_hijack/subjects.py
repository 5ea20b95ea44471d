"""The clean pictures: one per behavior, brought once into the form that the attack starts from.

A picture is opened as everywhere in mmcb (orientation applied, RGB), scaled down if it is huge, and
saved as `images/clean/NAME.png` in the run. That file, not the original, is the centre of the ball.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mmcb.attacks.image_hijack.roles import Pair
from mmcb.errors import MmcbError
from mmcb.generation.images import ImageProblem, image_size, open_image
from mmcb.log import get_logger
from mmcb.models.preprocess import Preprocessor
from mmcb.records import Behavior
from mmcb.store import record_id, resolve_image, write_atomic

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """One behavior and its clean picture.

    Args:
        behavior: the record.
        source: the picture it was made from.
        clean: the clean picture, 8-bit RGB PNG.
        size: its (height, width).
    """

    behavior: Behavior
    source: Path
    clean: Path
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """File name of the clean picture and of every picture made from it."""
        return self.clean.name

    @property
    def pair(self) -> Pair:
        """What is asked, and how the answer is to begin."""
        return Pair(self.behavior.prompt, self.behavior.target)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture that cannot be used, and why."""

    image: Path
    reason: str


def pair_with_images(
    behaviors: Sequence[Behavior], *, behaviors_path: Path, image_folder: Path | None
) -> Iterator[tuple[Behavior, Path]]:
    """Every behavior with its own picture or, given a folder, with a photograph: first with first.

    Raises:
        MmcbError: the folder has no pictures.
    """
    if image_folder is None:
        for behavior in behaviors:
            if behavior.image is not None:
                yield behavior, resolve_image(behaviors_path, behavior.image)
        return
    photos = sorted(p for p in image_folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    if not photos:
        raise MmcbError(
            f"--image-folder {image_folder} holds no pictures", hint="give a folder of photographs"
        )
    # The photographs are the iterator that is consumed: an unusable one costs no behavior.
    usable = (photo for photo in photos if _usable(photo))
    used = 0
    for pair in zip(behaviors, usable, strict=False):
        used += 1
        yield pair
    if used < len(behaviors):
        _log.warning(
            "%s holds %d pictures for %d behaviors: the others are left out",
            *(image_folder, used, len(behaviors)),
        )


def prepare_subjects(
    pairs: Iterable[tuple[Behavior, Path]],
    *,
    count: int | None,
    folder: Path,
    fit: Callable[[Image.Image], Image.Image],
) -> tuple[list[Subject], list[Skipped]]:
    """Write each clean picture that is not there yet.

    Args:
        pairs: behaviors with their source pictures.
        count: stop after so many that can be opened; None: take all.
        folder: where the clean pictures are (made if missing).
        fit: brings a picture to the size it is attacked at, such as `scale_down`.

    Returns:
        The subjects in order, and the pictures that could not be opened.

    Raises:
        MmcbError: no picture could be opened.
    """
    subjects, skipped = [], []
    for behavior, source in pairs:
        clean = folder / f"{file_stem(behavior.id)}.png"
        try:
            if not clean.exists():
                write_atomic(clean, encode_png(fit(open_image(source))))
            size = image_size(clean)
        except ImageProblem as problem:
            _log.warning("skipped %s", problem.message)
            skipped.append(Skipped(source, problem.reason))
            continue
        subjects.append(Subject(behavior, source, clean, size))
        if len(subjects) == count:
            break
    if not subjects:
        raise MmcbError(
            "none of the pictures can be opened"
            + (f", e.g. {skipped[0].image}: {skipped[0].reason}" if skipped else ""),
            hint="give other --behaviors or another --image-folder",
        )
    return subjects, skipped


def batches(subjects: Sequence[Subject], *, batch_size: int) -> list[list[Subject]]:
    """Batches of pictures of equal size, in a fixed order, which resuming depends on.

    Within a size, neighbours have targets of like length, so that little is padding.
    """
    by_size: dict[tuple[int, int], list[Subject]] = defaultdict(list)
    for subject in subjects:
        by_size[subject.size].append(subject)
    result = []
    for same in by_size.values():
        same.sort(key=lambda subject: len(subject.behavior.prompt + subject.behavior.target))
        result += [same[i : i + batch_size] for i in range(0, len(same), batch_size)]
    return result


def scale_down(image: Image.Image, *, max_side: int) -> Image.Image:
    """The picture with its longer side at most `max_side`, aspect kept."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def encode_png(image: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file: lossless, without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def as_the_model_sees(image: Image.Image, preprocess: Preprocessor) -> Image.Image:
    """The picture at the size at which the model does not resize it any more."""
    levels = preprocess.own_levels(image_levels(image)[None].double())[0]
    return levels_to_image(levels.round().clamp(0, 255).to(torch.uint8))


def clean_levels(subjects: Sequence[Subject]) -> UInt8[Tensor, "B 3 H W"]:
    """The clean pictures, all of one size."""
    return torch.stack([read_levels(subject.clean) for subject in subjects])


def read_levels(path: Path) -> UInt8[Tensor, "3 H W"]:
    """The 8-bit RGB levels of a picture file."""
    return image_levels(open_image(path))


def image_levels(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """The 8-bit RGB levels of a picture."""
    levels = np.array(image, dtype=np.uint8)
    return torch.from_numpy(levels).permute(2, 0, 1).contiguous()


def levels_to_image(levels: UInt8[Tensor, "3 H W"]) -> Image.Image:
    """The picture with exactly these 8-bit levels."""
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())


def file_stem(name: str) -> str:
    """A file name for a record's id: the id itself where it is a safe one."""
    return name if re.fullmatch(r"[\w-][\w.-]{0,99}", name, re.ASCII) else record_id(name)


def _usable(photo: Path) -> bool:
    try:
        open_image(photo)
    except ImageProblem as problem:
        _log.warning("skipped %s", problem.message)
        return False
    return True
