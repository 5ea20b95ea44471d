"""Looking at an image file before a model does: can it be read, and was it converted?"""

import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mmcb.generation.images import ImageProblem, open_image

_ORIENTATION = 0x0112
"""The EXIF tag of a camera held sideways."""


class Look(NamedTuple):
    """What a look at an image file found; one of the two, or neither for an ordinary image."""

    problem: str | None = None
    """Why it cannot be used."""
    conversion: str | None = None
    """What was done to it before use."""


def look_at(path: Path) -> Look:
    """Decode an image as the model's loader will, and say how it went; never raises on content."""
    try:
        image = open_image(path)
    except ImageProblem as problem:
        return Look(problem=_reason(problem, path))
    return Look(conversion=_conversion(path, size=image.size))


def _reason(problem: ImageProblem, path: Path) -> str:
    reason = getattr(problem, "reason", None) or problem.message
    return str(reason).removeprefix(f"{path}: ")


def _conversion(path: Path, *, size: tuple[int, int]) -> str | None:
    """What stands in the file's header that `open_image` had to change."""
    changes = []
    with warnings.catch_warnings():
        # A decompression bomb that open_image took: it was scaled down, see below.
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                mode, before = image.mode, image.size
                orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:
            # The header alone is refused, though open_image read the file: say no more than that.
            return "converted to RGB"
    if mode != "RGB":
        changes.append(f"mode {mode} to RGB")
    if orientation not in (0, 1):
        changes.append(f"turned by its EXIF orientation {orientation}")
    if sorted(before) != sorted(size):
        changes.append(f"scaled down from {before[0]}x{before[1]} to {size[0]}x{size[1]}")
    return ", ".join(changes) or None
