"""Images for a page that must stand alone: data URIs, and the perturbation made visible."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmcb.errors import MmcbError

MAX_SIDE = 480
"""Pixels of the longer side above which an image is shown smaller."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the page holds it."""

    uri: str
    width: int
    height: int
    small: bool
    """So small that the page enlarges it, in square pixels."""
    note: str = ""


def load(path: Path) -> Image.Image | None:
    """The image as the models saw it (oriented, RGB), None if it cannot be read."""
    from mmcb.generation.images import open_image

    try:
        return open_image(path)
    except (MmcbError, OSError):
        return None


def picture(image: Image.Image, *, note: str = "", exact: bool = False) -> Picture:
    """Put an image into the page, large ones smaller; to the last level if `exact`."""
    scale = MAX_SIDE / max(image.size)
    small = scale >= 1.5
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        how = Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS
        image = image.resize(size, how)
    buffer = io.BytesIO()
    # For looking at: the files that models saw lie in the run, and noise as PNG is a heavy page.
    if exact:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(buffer, "JPEG", quality=88, subsampling=0)
        kind = "jpeg"
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{data}", image.width, image.height, small, note)


def perturbation(clean: Image.Image, attacked: Image.Image) -> Picture | None:
    """The difference of two images, magnified around mid-grey; None if their sizes differ.

    The factor is the largest whole one that keeps every difference inside the 8-bit range, to
    within the one level by which the range is not symmetric.
    """
    if clean.size != attacked.size:
        return None
    difference = np.asarray(attacked, dtype=np.int16) - np.asarray(clean, dtype=np.int16)
    largest = int(np.abs(difference).max())
    factor = max(1, 128 // largest) if largest else 1
    shown = np.clip(128 + factor * difference, 0, 255).astype(np.uint8)
    note = f"\u00d7\u00a0{factor} around grey, largest difference {largest}/255"
    return picture(Image.fromarray(shown), note=note, exact=True)
