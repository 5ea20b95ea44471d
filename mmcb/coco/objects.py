"""Where annotated objects lie in their pictures, looked up on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mmcb.coco.annotations import AnnotationFile
from mmcb.coco.folder import annotation_files, image_folders
from mmcb.record_index import temporary_database

_TABLES = """
CREATE TABLE named (coco_id INTEGER PRIMARY KEY, image TEXT);
CREATE TABLE object (place INTEGER PRIMARY KEY, image TEXT, category TEXT, shape TEXT);
CREATE INDEX by_image ON object (image);
"""


class CocoObject(NamedTuple):
    """An annotated object."""

    category: str
    shape: Any
    """COCO's `segmentation`: polygons or a run-length code; the box, if it has neither."""


class CocoObjects:
    """The objects of the images that are asked for; annotation files are read bit by bit.

    Args:
        root: A COCO folder.
        wanted: Whether an image, by its absolute path, will be asked for.

    Raises:
        MmcbError: An annotation file is not COCO's JSON, or there are no images.
    """

    def __init__(self, root: Path, *, wanted: Callable[[Path], bool]) -> None:
        self._db = temporary_database()
        self._db.executescript(_TABLES)
        for split, folder in image_folders(root).items():
            for path in annotation_files(root, "instances", split):
                self._read(AnnotationFile(path), Path(os.path.abspath(folder)), wanted)

    def of(self, image: Path) -> list[CocoObject]:
        """The objects of an image, by its absolute path, in the annotators' order."""
        rows = self._db.execute(
            "SELECT category, shape FROM object WHERE image = ? ORDER BY place", (str(image),)
        )
        return [CocoObject(category, json.loads(shape)) for category, shape in rows]

    def _read(self, file: AnnotationFile, folder: Path, wanted: Callable[[Path], bool]) -> None:
        names = dict(file.categories())
        self._db.execute("DELETE FROM named")
        self._db.executemany(
            "INSERT OR REPLACE INTO named VALUES (?, ?)",
            ((id_, str(folder / name)) for id_, name, _ in file.images() if wanted(folder / name)),
        )
        self._db.executemany(
            "INSERT INTO object (image, category, shape) SELECT image, ?, ? FROM named"
            " WHERE coco_id = ?",
            (
                (names.get(category, str(category)), json.dumps(shape), image)
                for image, category, shape in file.shapes()
            ),
        )
