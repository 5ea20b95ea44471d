"""Examples that show the writer what is wanted, from a file of the user's: none ship with mmcb.

They stand as earlier turns of the conversation, the template filled in for each, so any template
takes them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from mmcb.errors import MmcbError
from mmcb.records import Part
from mmcb.sources.rows import Row, read_rows
from mmcb.synthesis.categories import Category, Taxonomy
from mmcb.synthesis.parsing import Pair
from mmcb.synthesis.plan import WriterTask


class _Line(Part):
    """A record of the file: a caption, and the pair that a good writer makes of it."""

    task: WriterTask
    caption: str = Field(min_length=1)
    query: str = Field(min_length=1)
    completion: str = Field(min_length=1)
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """An example to show: what was asked of a writer, and what it wrote."""

    task: WriterTask
    caption: str
    category: Category | None
    """Of a harmful pair: one of the taxonomy's that is not held out."""
    pair: Pair

    @property
    def answer(self) -> str:
        """The pair as the JSON object that the templates ask for."""
        return json.dumps(self.pair._asdict(), ensure_ascii=False)


def load_shots(path: Path | None, taxonomy: Taxonomy) -> list[Shot]:
    """The examples of a file (JSON, JSONL, CSV or Parquet); none where no file is given.

    Raises:
        MmcbError: A record is no such example, its category is unknown or held out, or there is
            no record at all.
    """
    if path is None:
        return []
    shots = [_shot(row, taxonomy) for row in read_rows(path)]
    if not shots:
        raise MmcbError(f"--few-shot {path}: holds no example")
    return shots


def _shot(row: Row, taxonomy: Taxonomy) -> Shot:
    given = {key: value for key, value in row.values.items() if value is not None}
    try:
        line = _Line.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise row.problem(f"not an example to show: {field}: {first['msg']}") from None
    return Shot(
        task=line.task,
        caption=line.caption,
        category=_category(line, row, taxonomy) if line.task == "harmful" else None,
        pair=Pair(line.query, line.completion),
    )


def _category(line: _Line, row: Row, taxonomy: Taxonomy) -> Category:
    # A held-out one would be shown to the writer of every training example.
    known = {category.name: category for category in taxonomy.train}
    if line.category not in known:
        raise row.problem(
            f"category {line.category!r} is none that may be trained on: {', '.join(known)}"
        )
    return known[line.category]
