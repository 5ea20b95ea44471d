"""The rows of the tables that a page and a terminal show: every number of every model, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmcb.evaluation.capability import CAPABILITY_TASKS
from mmcb.evaluation.comparison import NOT_MEASURED, Column, Rate, measured_attacks
from mmcb.evaluation.summarize import ATTACKS

ASR_NAMES = {
    "direct": "direct request",
    "trigger": "trigger phrase",
    "prefill": "prefill",
    "image_hijack": "image hijack",
    "image_hijack_heldout": "image hijack, held-out",
    "embedding": "input embeddings",
    "gcg": "token search (GCG)",
    "multi_turn": "several turns",
    "translated": "translated request",
    "static": "static test cases",
    "steering": "steered activations",
}
"""How the attacks are called wherever a person reads them."""


def attack_title(name: str) -> str:
    """How an attack, or one of several runs of it (`facts.attack_names`), is called."""
    attack, _, run = name.partition(": ")
    return f"{ASR_NAMES[attack]}: {run}" if run else ASR_NAMES[attack]


CAPABILITY_NAMES = {
    "caption": "captions",
    "vqa": "visual questions",
    "fact": "facts",
    "benign_howto": "benign how-to",
}
"""How the capability tasks are called wherever a person reads them."""

BENIGN_NAMES = {
    "over_refusal": "benign requests refused",
    "coherence_benign": "benign answers coherent",
}
"""How the other numbers of benign items are called."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One model's number, with what must be read beside it."""

    column: Column
    rate: Rate
    beside: tuple[tuple[str, Rate], ...] = ()
    """Other judges' rates, and the share of coherent answers, each with its name."""
    perplexity: float | None = None
    """Median over the answers, under the base model."""


@dataclass(frozen=True, slots=True)
class Row:
    """A number of every model."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def sizes(self) -> list[int]:
        """How many things were counted, each number once; models that were not measured apart."""
        return list(dict.fromkeys(int(cell.rate["n"]) for cell in self.cells if cell.rate["n"]))

    @property
    def counts(self) -> str:
        """The same as text: one number where it is the same for all."""
        return " / ".join(map(str, self.sizes))


def attack_rows(columns: Sequence[Column], judges: Sequence[str]) -> list[Row]:
    """Attack success by the first judge, the others' beside it, and how coherent the answers are.

    An attack with several attempts on a behavior has a second row: any of them.
    """
    rows = []
    for key in measured_attacks(columns, judges[0]):
        cells = tuple(_attack_cell(column, key, judges) for column in columns)
        rows.append(Row(ASR_NAMES[key], cells))
        tries = [column.any_of_n(key) for column in columns]
        most = max((int(rate.get("attempts", 0)) for rate in tries), default=0)
        if most > 1:
            any_of = zip(columns, tries, strict=True)
            name = f"{ASR_NAMES[key]}, any of {most}"
            rows.append(Row(name, tuple(Cell(column, rate) for column, rate in any_of)))
    return rows


def _attack_cell(column: Column, key: str, judges: Sequence[str]) -> Cell:
    first, *others = judges
    if not column.asr(first, key)["n"]:
        return Cell(column, NOT_MEASURED)
    beside = [(judge, column.asr(judge, key)) for judge in others]
    beside.append(("coherent", column.coherent(first, key)))
    return Cell(column, column.asr(first, key), tuple(beside), column.perplexity(key))


def capability_rows(columns: Sequence[Column]) -> list[Row]:
    """Share of right answers, task by task, where any model was asked."""
    return _measured(CAPABILITY_TASKS, CAPABILITY_NAMES, columns, Column.capability)


def benign_rows(columns: Sequence[Column]) -> list[Row]:
    """Over-refusal, and coherence of benign answers."""
    return _measured(tuple(BENIGN_NAMES), BENIGN_NAMES, columns, Column.benign)


def _measured(
    keys: Sequence[str],
    names: dict[str, str],
    columns: Sequence[Column],
    rate_of: Callable[[Column, str], Rate],
) -> list[Row]:
    rows = [
        Row(names[key], tuple(Cell(column, rate_of(column, key)) for column in columns))
        for key in keys
    ]
    return [row for row in rows if any(cell.rate["n"] for cell in row.cells)]


@dataclass(frozen=True, slots=True)
class CategoryTable:
    """One attack's success in each category of harm."""

    attack: str
    rows: tuple[tuple[str, bool, Row], ...]
    """Category, whether it was held out of training, numbers."""


def category_tables(columns: Sequence[Column]) -> list[CategoryTable]:
    """A table for each attack that has numbers by category; held-out categories come last."""
    splits: dict[str, str] = {}
    for column in columns:
        for category, row in column.evaluation.results.get("categories", {}).items():
            splits.setdefault(category, row["split"])
    order = sorted(splits, key=lambda name: (splits[name] == "heldout", name))
    tables = []
    for attack in ATTACKS:
        rows = [
            (category, splits[category] == "heldout", _category_row(columns, category, attack))
            for category in order
        ]
        kept = tuple(one for one in rows if any(cell.rate["n"] for cell in one[2].cells))
        if kept:
            tables.append(CategoryTable(ASR_NAMES[attack], kept))
    return tables


def _category_row(columns: Sequence[Column], category: str, attack: str) -> Row:
    cells = (Cell(column, column.in_category(category, attack)) for column in columns)
    return Row(category, tuple(cells))
