"""What a COCO folder holds, listed in a temporary database: memory does not grow with the folder.

COCO's 118,287 training images have 860,001 annotated objects; what is known of them stands on disk,
and images are handed out one by one.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcb.coco.annotations import AnnotationFile
from mmcb.coco.folder import ImageFile, annotation_files, image_folders, iterate_images
from mmcb.coco.sampling import coverage_order
from mmcb.coco.tables import CATEGORIES_OF, FILL_QUEUES, TABLES
from mmcb.errors import MmcbError
from mmcb.record_index import temporary_database
from mmcb.store import record_id

_CHUNK = 500
"""Images fetched at once, so that the database is free for other questions in between."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image and what COCO's annotators said about it."""

    file: ImageFile
    image_id: int | None = None
    captions: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    license: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which images were taken: the same on every machine, whatever its shard."""

    images: int
    """How many were taken, of all shards."""
    sha256: str
    """Hash of their names, in order."""


class CocoIndex:
    """The images of a COCO folder, in the order of its splits and their names.

    Args:
        root: The COCO folder.
        splits: As in `image_folders`.
        captions: Whether to read people's captions too.
        hint: What to do when there is no such folder.

    Raises:
        MmcbError: No folder, no images, or an annotation file that is not COCO's JSON.
    """

    def __init__(
        self,
        root: Path,
        *,
        splits: Sequence[str] | None = None,
        captions: bool = False,
        hint: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.licenses: dict[int, str] = {}
        """Names of the licences that annotation files list, by COCO's number."""
        self.files: list[Path] = []
        """The annotation files that were read."""
        self._folders = image_folders(self.root, splits=splits, hint=hint)
        self._db = temporary_database()
        self._db.executescript(TABLES)
        for split, folder in self._folders.items():
            self._list(split, folder)
        if not len(self):
            names = ", ".join(self._folders) or "no folder"
            raise MmcbError(f"no image in {root} ({names})", hint=hint)
        for split in self._folders:
            self._annotate(split, captions=captions)

    def __len__(self) -> int:
        """How many images are chosen; before `select`, all."""
        return self._count("FROM image WHERE chosen")

    @property
    def without_annotation(self) -> int:
        """How many images no annotation file names; 0 if there is no such file."""
        return self._count("FROM image WHERE NOT annotated") if self.files else 0

    @property
    def without_file(self) -> int:
        """How many images annotation files name that are not in the folder."""
        return self._count("FROM absent")

    @property
    def num_captions(self) -> int:
        """How many captions people wrote for the folder's images; 0 if they were not read."""
        return self._count("FROM caption")

    @property
    def num_categories(self) -> int:
        """How many categories annotation files list."""
        return int(self._db.execute("SELECT count(DISTINCT name) FROM category").fetchone()[0])

    def coverage(self) -> dict[str, int]:
        """How many of the chosen images show each category, the rarest first."""
        rows = self._db.execute(
            "SELECT category.name, count(DISTINCT image.place) AS n FROM image"
            " JOIN object ON object.place = image.place"
            " JOIN category ON category.file = object.file AND category.id = object.category"
            " WHERE image.chosen GROUP BY category.name ORDER BY n, category.name"
        )
        return {str(name): int(count) for name, count in rows}

    def license_counts(self) -> dict[int | None, int]:
        """How many of the chosen images have each licence."""
        rows = self._db.execute(
            "SELECT license, count(*) FROM image WHERE chosen GROUP BY license ORDER BY license"
        )
        return dict(rows.fetchall())

    def select(
        self,
        *,
        num_images: int | None = None,
        seed: int = 0,
        licenses: Sequence[int] | None = None,
        shard: tuple[int, int] | None = None,
    ) -> Selection:
        """Choose images; `images` then hands out these alone.

        Args:
            num_images: How many, by `coverage_order`; None, or more than there are, for all.
            seed: Decides between images that the categories leave equal.
            licenses: COCO's licence numbers to take.
            shard: (i, n): of what is chosen, the part i of n (from 1), by a hash of COCO's id.
        """
        self._db.execute("UPDATE image SET chosen = 1")
        if licenses is not None:
            marks = ", ".join(str(int(number)) for number in licenses)
            self._db.execute(f"UPDATE image SET chosen = coalesce(license IN ({marks}), 0)")
        if num_images is not None and num_images < len(self):
            self._sample(num_images, seed)
        digest = hashlib.sha256()
        for image in self._rows():
            digest.update(f"{image[1]}/{image[2]}\n".encode())
        selection = Selection(images=len(self), sha256=digest.hexdigest())
        if shard is not None:
            number, parts = shard
            self._define("part", lambda *name: _hash("shard", *name) % parts + 1)
            self._db.execute(
                "UPDATE image SET chosen = part(coco_id, split, name) = ? WHERE chosen", (number,)
            )
        return selection

    def images(self) -> Iterator[CocoImage]:
        """The chosen images with their captions, categories and licences, as far as annotated."""
        for place, split, name, coco_id, license_ in self._rows():
            said = self._db.execute(
                "SELECT text FROM caption WHERE place = ? ORDER BY mention", (place,)
            )
            shown = self._db.execute(CATEGORIES_OF, (place,))
            # dict: COCO repeats a category for each object; the first mention counts.
            yield CocoImage(
                file=ImageFile(self._folders[split] / name, split),
                image_id=coco_id,
                captions=tuple(dict.fromkeys(text for (text,) in said if text)),
                categories=tuple(dict.fromkeys(category for (category,) in shown)),
                license=license_,
            )

    def _rows(self) -> Iterator[tuple[int, str, str, int | None, int | None]]:
        place = 0
        while rows := self._db.execute(
            "SELECT place, split, name, coco_id, license FROM image"
            " WHERE chosen AND place > ? ORDER BY place LIMIT ?",
            (place, _CHUNK),
        ).fetchall():
            yield from rows
            place = rows[-1][0]

    def _list(self, split: str, folder: Path) -> None:
        self._db.execute("DELETE FROM listed")
        try:
            self._db.executemany(
                "INSERT INTO listed VALUES (?, ?)",
                ((path.name, ImageFile(path, split).number) for path in iterate_images(folder)),
            )
        except UnicodeEncodeError as error:
            raise MmcbError(f"{folder}: a file name is not UTF-8: {error.object!r}") from None
        self._db.execute(
            "INSERT INTO image (split, name, coco_id)"
            " SELECT ?, name, coco_id FROM listed ORDER BY name",
            (split,),
        )

    def _annotate(self, split: str, *, captions: bool) -> None:
        instances = annotation_files(self.root, "instances", split)
        people = annotation_files(self.root, "captions", split)
        for path in instances:
            number, file = self._open(path, split)
            self._db.executemany(
                "INSERT OR IGNORE INTO object SELECT place, file, ?, ? FROM named"
                " WHERE file = ? AND coco_id = ?",
                ((cat, i, number, image) for i, (image, cat) in enumerate(file.objects())),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO category VALUES (?, ?, ?)",
                ((number, *category) for category in file.categories()),
            )
        # Without instances, captions still tell COCO's ids and licences.
        for path in people if captions or not instances else ():
            number, file = self._open(path, split)
            self._db.executemany(
                "INSERT INTO caption SELECT place, ?, ? FROM named WHERE file = ? AND coco_id = ?",
                (
                    (number << 32 | i, text, number, image)
                    for i, (image, text) in enumerate(file.captions())
                ),
            )
        for path in annotation_files(self.root, "image_info", split):
            self._open(path, split)

    def _open(self, path: Path, split: str) -> tuple[int, AnnotationFile]:
        """Take up what a file says of the split's images: ids and licences."""
        number, file = len(self.files), AnnotationFile(path)
        self.files.append(path)
        self.licenses |= file.licenses()
        for coco_id, name, license_ in file.images():
            done = self._db.execute(
                "UPDATE image SET coco_id = ?, license = coalesce(?, license), annotated = 1"
                " WHERE split = ? AND name = ?",
                (coco_id, license_, split, name),
            )
            if done.rowcount == 0:
                self._db.execute("INSERT OR IGNORE INTO absent VALUES (?, ?)", (split, name))
                continue
            self._db.execute(
                "INSERT OR REPLACE INTO named SELECT ?, coco_id, place FROM image"
                " WHERE split = ? AND name = ?",
                (number, split, name),
            )
        return number, file

    def _sample(self, count: int, seed: int) -> None:
        self._define("rank", lambda *name: _hash("sample", seed, *name))
        self._db.execute("DELETE FROM queue")
        self._db.execute(FILL_QUEUES)
        sizes = dict(self._db.execute("SELECT category, count(*) FROM queue GROUP BY category"))
        self._db.execute("UPDATE image SET chosen = 0")
        order = coverage_order(sizes, queue=self._queue, categories=self._queued)
        for _, place in zip(range(count), order, strict=False):
            self._db.execute("UPDATE image SET chosen = 1 WHERE place = ?", (place,))

    def _queue(self, category: str) -> Iterator[int]:
        rows = self._db.execute(
            "SELECT place FROM queue WHERE category = ? ORDER BY rank, place", (category,)
        )
        return (place for (place,) in rows)

    def _queued(self, place: int) -> list[str]:
        rows = self._db.execute(CATEGORIES_OF, (place,)).fetchall()
        return list(dict.fromkeys(name for (name,) in rows)) or [""]

    def _define(self, name: str, function: Callable[..., int]) -> None:
        self._db.create_function(name, 3, function, deterministic=True)

    def _count(self, what: str) -> int:
        return int(self._db.execute(f"SELECT count(*) {what}").fetchone()[0])


def _hash(purpose: str, *name: int | str | None) -> int:
    """A fixed number for an image, below 2^60: of its COCO id, or of its name if it has none."""
    *salt, coco_id, split, file = name
    identity = f"{split}/{file}" if coco_id is None else coco_id
    return int(record_id(purpose, *(str(s) for s in salt), str(identity))[:15], 16)
