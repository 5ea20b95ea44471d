"""A gallery to review sets by eye: static pages of image, query, answer and where they come from.

Works from disk, whatever the number of records: no server, no script, no outside request (each
page's content policy forbids both). Harmful text is blurred until it is clicked; images are named
by relative path, not copied. All text is escaped by jinja2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mmcb.pages.environment import page_environment
from mmcb.records import Example
from mmcb.store import resolve_image, write_atomic

PER_PAGE = 50
"""Records of a page: some hundred kilobytes of HTML, and no more images than a browser likes."""

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


@dataclass(frozen=True, slots=True)
class _Set:
    """The pages of one set."""

    name: str
    stem: str
    entries: list[Entry]

    @property
    def num_pages(self) -> int:
        return -(-len(self.entries) // PER_PAGE)

    def page(self, number: int) -> list[Entry]:
        """Entries of a page, counted from 1."""
        return self.entries[(number - 1) * PER_PAGE : number * PER_PAGE]

    def href(self, number: int) -> str:
        return f"{self.stem}-{number:04d}.html"

    @property
    def sections(self) -> list[Section]:
        first: dict[str, int] = {}
        records: dict[str, int] = {}
        for place, entry in enumerate(self.entries):
            first.setdefault(entry.section, place)
            records[entry.section] = records.get(entry.section, 0) + 1
        return [
            Section(
                name,
                records[name],
                f"{self.href(place // PER_PAGE + 1)}#{self.entries[place].id}",
            )
            for name, place in first.items()
        ]


def write_gallery(
    sets: Mapping[Path, Sequence[Example]], *, title: str, captions: Mapping[str, str]
) -> Path:
    """Write the pages into `gallery/` beside the sets; those of an earlier time are replaced.

    Args:
        sets: Each JSONL file with its examples.
        title: Shown on every page.
        captions: Captions by the id that provenance names as the source.

    Returns:
        The first page.
    """
    folder = next(iter(sets)).parent / "gallery"
    shown = [
        _Set(NAMES.get(path.stem, path.stem), path.stem, _entries(path, examples, captions))
        for path, examples in sets.items()
    ]
    environment = page_environment(Path(__file__).parent)
    page = environment.get_template("gallery.html.j2")
    written = {folder / "index.html"}
    for set_ in shown:
        for number in range(1, set_.num_pages + 1):
            path = folder / set_.href(number)
            text = page.render(
                title=title, set=set_, number=number, entries=set_.page(number), per_page=PER_PAGE
            )
            write_atomic(path, text)
            written.add(path)
    index = environment.get_template("gallery_index.html.j2")
    write_atomic(folder / "index.html", index.render(title=title, sets=shown))
    for path in set(folder.glob("*.html")) - written:
        path.unlink()
    return folder / "index.html"


def _entries(path: Path, examples: Sequence[Example], captions: Mapping[str, str]) -> list[Entry]:
    """By category or task, training before held out, otherwise in the file's order."""
    entries = [_entry(path, example, captions) for example in examples]
    return sorted(entries, key=lambda entry: (entry.section, entry.split != "train"))


def _entry(path: Path, example: Example, captions: Mapping[str, str]) -> Entry:
    made = example.provenance
    harmful = example.kind == "circuit_breaker"
    last = len(example.messages) - 1
    image = None if example.image is None else resolve_image(path, example.image)
    there = image is not None and image.is_file()
    return Entry(
        id=example.id,
        section=str(example.category) if harmful and example.category else example.task,
        split=example.split,
        image=_address(image, path.parent / "gallery") if image is not None and there else None,
        missing=image is not None and not there,
        turns=tuple(
            # A refusal's request is one of the harmful queries; the refusal itself is not.
            Turn(m.role, m.content, veiled=harmful or (example.task == "refusal" and n < last))
            for n, m in enumerate(example.messages)
        ),
        caption=captions.get(str(made.source_id)),
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
