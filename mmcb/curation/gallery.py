"""A gallery to review sets by eye: static pages of image, query, answer and where they come from.

Works from disk, whatever the number of records: no server, no script, no outside request (each
page's content policy forbids both). Harmful text is blurred until it is clicked; images are named
by relative path, not copied. All text is escaped by jinja2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mmcb.coco.objects import CocoObjects
from mmcb.curation.outlines import Outline, named_objects, outline
from mmcb.pages.environment import page_environment
from mmcb.record_index import RecordIndex, temporary_database
from mmcb.records import Caption, Example
from mmcb.store import batches, read_records, relative_image, resolve_image, write_atomic

PER_PAGE = 50
"""Records of a page: some hundred kilobytes of HTML, and no more images than a browser likes."""

_ORDER = "ORDER BY section, heldout, line"

NAMES = {"circuit_breaker": "Circuit-breaker set", "retain": "Retain set"}


@dataclass(frozen=True, slots=True)
class Turn:
    """A message as it is shown."""

    role: str
    text: str
    veiled: bool
    """Whether it may be harmful, and is blurred."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it is shown."""

    id: str
    section: str
    """Category of harm, or task."""
    split: str
    image: str | None
    """Address from the gallery's folder; None for a text-only record."""
    missing: bool
    """The record names an image that is not there."""
    outline: Outline | None
    """Of what the request names."""
    turns: tuple[Turn, ...]
    caption: str | None
    """What the writer knew of the image."""
    provenance: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Where the records of a category or task begin."""

    name: str
    records: int
    href: str


class _Set:
    """The pages of one set: by category or task, training before held out, else in file order.

    The order stands in a temporary database, and a page's records are read when it is written.
    """

    def __init__(
        self, path: Path, captions: RecordIndex[Caption] | None, coco_root: Path | None
    ) -> None:
        self.name = NAMES.get(path.stem, path.stem)
        self.stem = path.stem
        self._path = path
        self._captions = captions
        self._records = RecordIndex(path, Example)
        self._objects = None if coco_root is None else CocoObjects(coco_root, wanted=self._shows)
        self._db = temporary_database()
        self._db.execute(
            "CREATE TABLE entry (section TEXT, heldout INTEGER, line INTEGER, id TEXT,"
            " PRIMARY KEY (section, heldout, line)) WITHOUT ROWID"
        )
        self._db.executemany(
            "INSERT INTO entry VALUES (?, ?, ?, ?)",
            (
                (_section(example), example.split != "train", line, example.id)
                for line, example in enumerate(read_records(path, Example))
            ),
        )
        self.total = int(self._db.execute("SELECT count(*) FROM entry").fetchone()[0])
        self.num_pages = -(-self.total // PER_PAGE)
        self.sections = list(self._begin())

    def pages(self) -> Iterator[tuple[int, list[Entry]]]:
        """The number of each page, from 1, and its entries."""
        ordered = (id_ for (id_,) in self._db.execute(f"SELECT id FROM entry {_ORDER}"))
        for number, ids in enumerate(batches(ordered, PER_PAGE), start=1):
            found = (self._records.get(id_) for id_ in ids)
            yield number, [self._entry(example) for example in found if example is not None]

    def href(self, number: int) -> str:
        return f"{self.stem}-{number:04d}.html"

    def _begin(self) -> Iterator[Section]:
        place = 0
        for section, records in self._db.execute(
            "SELECT section, count(*) FROM entry GROUP BY section ORDER BY section"
        ).fetchall():
            (first,) = self._db.execute(
                f"SELECT id FROM entry WHERE section = ? {_ORDER} LIMIT 1", (section,)
            ).fetchone()
            yield Section(section, records, f"{self.href(place // PER_PAGE + 1)}#{first}")
            place += records

    def _entry(self, example: Example) -> Entry:
        source = None
        if self._captions is not None:
            source = self._captions.get(str(example.provenance.source_id))
        return _entry(
            self._path,
            example,
            caption=None if source is None else source.text,
            outline=self._outline(example),
        )

    def _shows(self, image: Path) -> bool:
        return self._records.has_image(relative_image(self._path, image))

    def _outline(self, example: Example) -> Outline | None:
        if self._objects is None or example.image is None:
            return None
        image = resolve_image(self._path, example.image)
        request = " ".join(m.content for m in example.messages if m.role == "user")
        return outline(named_objects(request, self._objects.of(image)), image)


def write_gallery(
    paths: Sequence[Path],
    *,
    title: str,
    captions: RecordIndex[Caption] | None = None,
    coco_root: Path | None = None,
) -> Path:
    """Write the pages into `gallery/` beside the sets; those of an earlier time are replaced.

    Args:
        paths: The sets' JSONL files, in one folder.
        title: Shown on every page.
        captions: The captions, by the id that provenance names as the source.
        coco_root: The COCO folder of the pictures, to outline what a request names.

    Returns:
        The first page.
    """
    folder = paths[0].parent / "gallery"
    sets = [_Set(path, captions, coco_root) for path in paths]
    environment = page_environment(Path(__file__).parent)
    page = environment.get_template("gallery.html.j2")
    written = {folder / "index.html"}
    for set_ in sets:
        for number, entries in set_.pages():
            path = folder / set_.href(number)
            text = page.render(
                title=title, set=set_, number=number, entries=entries, per_page=PER_PAGE
            )
            write_atomic(path, text)
            written.add(path)
    index = environment.get_template("gallery_index.html.j2")
    write_atomic(folder / "index.html", index.render(title=title, sets=sets))
    for path in set(folder.glob("*.html")) - written:
        path.unlink()
    return folder / "index.html"


def _section(example: Example) -> str:
    harmful = example.kind == "circuit_breaker"
    return str(example.category) if harmful and example.category else example.task


def _entry(path: Path, example: Example, *, caption: str | None, outline: Outline | None) -> Entry:
    made = example.provenance
    harmful = example.kind == "circuit_breaker"
    last = len(example.messages) - 1
    image = None if example.image is None else resolve_image(path, example.image)
    there = image is not None and image.is_file()
    return Entry(
        id=example.id,
        section=_section(example),
        split=example.split,
        image=_address(image, path.parent / "gallery") if image is not None and there else None,
        missing=image is not None and not there,
        outline=outline,
        turns=tuple(
            # A refusal's request is one of the harmful queries; the refusal itself is not.
            Turn(m.role, m.content, veiled=harmful or (example.task == "refusal" and n < last))
            for n, m in enumerate(example.messages)
        ),
        caption=caption,
        provenance=(
            ("written by", made.generator + (f" ({made.revision})" if made.revision else "")),
            *((("template", made.template),) if made.template else ()),
            *((("seed", str(made.seed)),) if made.seed is not None else ()),
            *((("source", made.source_id),) if made.source_id else ()),
            *((key, str(value)) for key, value in made.settings.items() if value != ""),
        ),
    )


def _address(image: Path, gallery: Path) -> str:
    relative = Path(os.path.relpath(image, os.path.abspath(gallery)))
    return quote(relative.as_posix())
