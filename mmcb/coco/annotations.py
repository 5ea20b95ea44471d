"""COCO's annotation files, read bit by bit: `instances_train2017.json` has 448 MB.

Each list of a file is read in a pass of its own, because COCO's files do not agree on the order of
their lists.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ijson

from mmcb.errors import MmcbError

_BUFFER = 1 << 16
_NOT_COCO = (ijson.JSONError, UnicodeDecodeError, KeyError, TypeError, ValueError, OverflowError)


class AnnotationFile:
    """One annotation file.

    Its methods raise `MmcbError` where the file is not COCO's JSON, or is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def licenses(self) -> dict[int, str]:
        """Names of the licences by COCO's number; empty if the file lists none."""
        with self._naming_the_file():
            found: list[dict[str, Any]] = next(self._items("licenses"), [])
            return {int(entry["id"]): str(entry["name"]) for entry in found}

    def images(self) -> Iterator[tuple[int, str, int | None]]:
        """COCO's id, file name and licence number of each image.

        Raises:
            MmcbError: Also if the file lists no image at all.
        """
        empty = True
        with self._naming_the_file():
            for image in self._items("images.item"):
                empty = False
                license_ = image.get("license")
                name = str(image["file_name"]).rpartition("/")[2]
                yield int(image["id"]), name, None if license_ is None else int(license_)
            if empty:
                raise KeyError("images")

    def objects(self) -> Iterator[tuple[int, int]]:
        """COCO's image id and category id of each annotated object."""
        with self._naming_the_file():
            for entry in self._items("annotations.item"):
                if "category_id" in entry:
                    yield int(entry["image_id"]), int(entry["category_id"])

    def shapes(self) -> Iterator[tuple[int, int, Any]]:
        """COCO's image id and category id of each object, and how it is drawn.

        Polygons as lists of x and y, or a run-length code; the box as a polygon where there is
        neither.
        """
        with self._naming_the_file():
            for entry in self._items("annotations.item"):
                if "category_id" in entry:
                    shape = entry.get("segmentation") or [_corners(*entry["bbox"])]
                    yield int(entry["image_id"]), int(entry["category_id"]), shape

    def captions(self) -> Iterator[tuple[int, str]]:
        """COCO's image id and the words of each caption."""
        with self._naming_the_file():
            for entry in self._items("annotations.item"):
                if "caption" in entry:
                    yield int(entry["image_id"]), " ".join(str(entry["caption"]).split())

    def categories(self) -> Iterator[tuple[int, str]]:
        """Number and name of each category."""
        with self._naming_the_file():
            for entry in self._items("categories.item"):
                yield int(entry["id"]), str(entry["name"])

    def _items(self, prefix: str) -> Iterator[Any]:
        with self.path.open("rb") as file:
            yield from ijson.items(file, prefix, use_float=True, buf_size=_BUFFER)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except _NOT_COCO as error:
            raise MmcbError(
                f"{self.path} is not a COCO annotation file: {type(error).__name__}: {error}",
                hint="download it again, or move it away: images need no annotations",
            ) from None
        except OSError as error:
            raise MmcbError(f"{self.path}: {error.strerror or error}") from None


def _corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]
