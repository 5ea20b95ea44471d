"""The card of a data set folder: README.md, as `datasets` and the hub read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from mmcb import __version__
from mmcb.curation.summary import SetSummary
from mmcb.store import write_atomic

COCO_LICENCES = {
    "Attribution-NonCommercial-ShareAlike License": "CC BY-NC-SA 2.0",
    "Attribution-NonCommercial License": "CC BY-NC 2.0",
    "Attribution-NonCommercial-NoDerivs License": "CC BY-NC-ND 2.0",
    "Attribution License": "CC BY 2.0",
    "Attribution-ShareAlike License": "CC BY-SA 2.0",
    "Attribution-NoDerivs License": "CC BY-ND 2.0",
}
"""What the names that COCO's annotation files give to Flickr's licences leave out."""


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
    """Images by the number of their licence."""
    licence_names: Mapping[int, str] = field(default_factory=dict)
    """What the annotation files call each number: those of other folders than COCO's differ."""
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
    text = template.render(card=card, licences=_licences(card), version=__version__)
    write_atomic(folder / "README.md", text)


def _licences(card: Card) -> list[tuple[str, int]]:
    named = Counter[str]()
    for number, images in card.licences.items():
        name = card.licence_names.get(number or 0, f"number {number}")
        named["not stated" if number is None else COCO_LICENCES.get(name, name)] += images
    return sorted(named.items())
