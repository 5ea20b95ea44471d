"""The taxonomy of harm: which categories there are, and which no training record may show.

A taxonomy is a JSON file: {"name", "categories": [{"name", "description", "heldout", "maps_to"}],
"template_set"}. Names and neutral definitions only, never an example.
"""

import json
from pathlib import Path
from random import Random

from pydantic import Field, ValidationError, model_validator

from mmcb.errors import MmcbError
from mmcb.records import Part

FOLDER = Path(__file__).parent / "taxonomies"
MIN_HELDOUT = 2


class Category(Part):
    """A kind of harm."""

    name: str = Field(min_length=1)
    description: str = ""
    """One neutral line that tells the writer what belongs here."""
    heldout: bool = False
    """Whether it appears in no training record, to see if the defence carries over."""
    maps_to: dict[str, tuple[str, ...]] = {}
    """What other taxonomies call it: names by `harmbench`, `mm_safetybench`, `paper`, or others."""


class Taxonomy(Part):
    """The categories that harmful queries are drawn from."""

    name: str
    categories: tuple[Category, ...]
    template_set: str = "default"
    """The prompt templates that suit it."""

    @model_validator(mode="after")
    def _has_both_kinds(self) -> "Taxonomy":
        names = [category.name for category in self.categories]
        if len(set(names)) < len(names):
            raise ValueError("two categories have the same name")
        if len(self.heldout) < MIN_HELDOUT or not self.train:
            raise ValueError(
                f"at least {MIN_HELDOUT} categories must be held out, and at least one must not"
            )
        return self

    @property
    def train(self) -> tuple[Category, ...]:
        """Categories that may be trained on."""
        return tuple(category for category in self.categories if not category.heldout)

    @property
    def heldout(self) -> tuple[Category, ...]:
        """Categories that appear in no training record."""
        return tuple(category for category in self.categories if category.heldout)


def taxonomy_file(name: str) -> Path:
    """The file of a shipped taxonomy, or of one given by its path.

    Raises:
        MmcbError: There is neither.
    """
    shipped = FOLDER / f"{name}.json"
    if shipped.is_file() and Path(name).name == name:
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.json")))
    raise MmcbError(
        f"no taxonomy {name!r}: neither a shipped one nor a file",
        hint=f"--taxonomy takes {known}, or a JSON file written like {FOLDER / 'default.json'}",
    )


def load_taxonomy(name: str) -> Taxonomy:
    """Read a taxonomy by its shipped name or its path.

    Raises:
        MmcbError: There is none, or it is not one.
    """
    path = taxonomy_file(name)
    try:
        return Taxonomy.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        problem = f"{where}: {message}" if where else message
    except (OSError, ValueError) as error:
        problem = f"not JSON: {error}"
    raise MmcbError(
        f"{path}: not a taxonomy: {problem}",
        hint=f"a taxonomy to copy from: {FOLDER / 'default.json'}",
    )


def even_category(
    categories: tuple[Category, ...], index: int, *, seed: int, salt: str
) -> Category:
    """The category of the index-th query: every run of len(categories) queries has each once.

    The order within a run is shuffled by the seed, so that a category does not always fall on the
    same kind of image.
    """
    block, place = divmod(index, len(categories))
    order = Random(f"{seed}/{salt}/{block}").sample(range(len(categories)), len(categories))
    return categories[order[place]]
