"""What a request names, outlined in its picture: is the query really grounded in it?

COCO draws an object in several polygons, and a crowd as run-length codes. pycocotools (the COCO
authors' own reader) makes one mask of them all, whose area and edge are what a reviewer wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mmcb.coco.objects import CocoObject
from mmcb.curation.grounding import content_words

_FINE = 320
"""The longer side of a mask whose edge is followed, in pixels: more than the page shows."""


class Outline(NamedTuple):
    """The edge of some objects, as SVG draws it."""

    names: tuple[str, ...]
    """The objects' categories."""
    share: float
    """Of the picture that they cover, in [0, 1]."""
    width: int
    """Of the picture, in pixels."""
    height: int
    path: str
    """SVG path data in the picture's pixels."""


def named_objects(text: str, objects: Sequence[CocoObject]) -> list[CocoObject]:
    """The objects whose category a text names, with all of its words."""
    words = content_words(text)
    return [each for each in objects if content_words(each.category) <= words]


def outline(objects: Sequence[CocoObject], image: Path) -> Outline | None:
    """The outline of objects of a picture; None if there are none, or nothing can be drawn."""
    from pycocotools import mask

    try:
        with Image.open(image) as picture:
            width, height = picture.size
        codes = [code for each in objects for code in _codes(each.shape, height, width)]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None  # a page to look at does not fail for one bad shape
    if not codes:
        return None
    whole = mask.merge(codes)
    return Outline(
        names=tuple(dict.fromkeys(each.category for each in objects)),
        share=float(mask.area(whole)) / (width * height),
        width=width,
        height=height,
        path=_edge(mask.decode(whole)),
    )


def _codes(shape: Any, height: int, width: int) -> list[Any]:
    """COCO's three ways to draw an object, as compressed run-length codes."""
    from pycocotools import mask

    if isinstance(shape, list):
        polygons = [p for p in shape if len(p) >= 6 and len(p) % 2 == 0]
        return list(mask.frPyObjects(polygons, height, width)) if polygons else []
    if list(shape["size"]) != [height, width]:
        return []
    return [mask.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape]


def _edge(whole: Any) -> str:
    """The edge of a mask (H, W) of 0 and 1, holes and all."""
    import contourpy
    import numpy as np

    step = max(1, -(-max(whole.shape) // _FINE))
    # A border of nothing closes what reaches the edge of the picture.
    grid = np.pad(whole[::step, ::step], 1)
    parts = []
    generator = contourpy.contour_generator(z=grid, line_type="Separate")
    for line in map(np.asarray, generator.lines(0.5)):
        way = np.diff(line, axis=0)
        turns = np.any(way != np.roll(way, 1, axis=0), axis=1)
        # Point 1 of the grid is the middle of the first pixel.
        points = (line[:-1][turns] - 0.5) * step
        parts.append("M" + " ".join(f"{x:g},{y:g}" for x, y in points) + "Z")
    return "".join(parts)
