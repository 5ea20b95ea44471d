"""Opening images from the wild: upright 8-bit RGB, or an `ImageProblem` that says why not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmcb.errors import MmcbError

MAX_SIDE = 4096
"""Longer sides are shrunk to this: no model here looks closer, and memory is finite."""

MAX_PIXELS = 178_956_970
"""More pixels than this are refused unread, as a decompression bomb (Pillow's own limit)."""

_ORIENTATION = 0x0112
"""EXIF tag; values 5 to 8 lie on their side."""


class ImageProblem(MmcbError):  # noqa: N818 - a fact about data, often not raised further
    """An image that cannot be used; `reason` is short enough for a record."""

    def __init__(self, reason: str, *, path: Path) -> None:
        super().__init__(f"{path}: {reason}", hint="replace the image or leave it out")
        self.reason = reason


def open_image(path: Path) -> Image.Image:
    """The image as upright 8-bit RGB, read whole; huge ones shrunk to `MAX_SIDE`.

    EXIF rotation is applied; transparency is laid over white; gray, palette, CMYK and 16-bit
    images become RGB.

    Raises:
        ImageProblem: missing, empty, not an image, cut off, or a decompression bomb.
    """
    try:
        with _open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            rgb = _to_rgb(upright)
    except ImageProblem:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise ImageProblem(f"damaged or cut off ({error})", path=path) from error
    size = _shrunk(rgb.size)
    return rgb if size == rgb.size else rgb.resize(size, Image.Resampling.BICUBIC)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of what `open_image` gives, from the header alone.

    Raises:
        ImageProblem: as `open_image`, but a file that is cut off later is not noticed.
    """
    try:
        with _open(path) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
                width, height = height, width
    except ImageProblem:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageProblem(f"damaged or cut off ({error})", path=path) from error
    width, height = _shrunk((width, height))
    return height, width


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise ImageProblem("there is no such file", path=path)
    if path.stat().st_size == 0:
        raise ImageProblem("the file is empty", path=path)
    try:
        with warnings.catch_warnings():
            # Pillow warns at half its limit; we refuse at the limit and shrink below it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise ImageProblem("too many pixels", path=path) from error
    except UnidentifiedImageError as error:
        raise ImageProblem("not an image", path=path) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageProblem(f"damaged or cut off ({error})", path=path) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ImageProblem("too many pixels", path=path)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()
    if image.mode.startswith(("I", "F")):
        return _from_deep_gray(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep_gray(image: Image.Image) -> Image.Image:
    """16-bit and float gray to 8 bits; Pillow's own conversion would clip nearly all to white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode.startswith("I") and values.max(initial=0.0) > 255:
        values = values / 257.0
    elif image.mode == "F" and values.max(initial=0.0) <= 1.0:
        values = values * 255.0
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")


def _shrunk(size: tuple[int, int]) -> tuple[int, int]:
    longest = max(size)
    if longest <= MAX_SIDE:
        return size
    width, height = (max(1, round(side * MAX_SIDE / longest)) for side in size)
    return width, height
