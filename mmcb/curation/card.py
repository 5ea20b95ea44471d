"""The card of a data set folder: README.md, as `datasets` and the hub read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mmcb import __version__
from mmcb.curation.summary import SetSummary
from mmcb.store import write_atomic

LICENCES = {
    1: "CC BY-NC-SA 2.0",
    2: "CC BY-NC 2.0",
    3: "CC BY-NC-ND 2.0",
    4: "CC BY 2.0",
    5: "CC BY-SA 2.0",
    6: "CC BY-ND 2.0",
    7: "no known copyright restrictions",
    8: "United States Government Work",
}
"""COCO's licence numbers (`licenses` of its annotation files)."""


@dataclass(frozen=True, slots=True)
class FilterRow:
    """One filter of the table."""

    name: str
    setting: str
    answers: int
    """Answers that it refused, those asked for again included."""
    examples: int
    """Examples that were lost to it in the end."""


@dataclass(frozen=True, slots=True)
class Card:
    """All that the card tells."""

    title: str
    made_by: str
    """A sentence: from what, by which models."""
    command: str
    sets: tuple[SetSummary, ...]
    filters: tuple[FilterRow, ...]
    files: Mapping[str, str]
    """Further files, with what a line of each is."""
    licences: Mapping[int | None, int]
    """Images by COCO's licence number."""
    heldout: tuple[str, ...] = ()
    """Categories that no training record shows."""
    mapping: Mapping[str, Mapping[str, Sequence[str]]] | None = None
    """Each category's names in other taxonomies."""
    fictional: bool = False
    """Whether the harm is invented."""
    parquet: bool = False
    gallery: bool = False


def write_card(folder: Path, card: Card) -> None:
    """Write README.md."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown; names of models and files, never a model's text
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("card.md.j2")
    text = template.render(card=card, licences=_licences(card.licences), version=__version__)
    write_atomic(folder / "README.md", text)


def _licences(numbers: Mapping[int | None, int]) -> list[tuple[str, int]]:
    named = Counter[str]()
    for number, images in numbers.items():
        named[LICENCES.get(number or 0, "not stated")] += images
    return sorted(named.items())
