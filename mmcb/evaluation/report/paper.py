"""The paper's own tables beside ours, where the model is one of the paper's.

The numbers stand in paper.json, each table with where it is in the paper. They lie beside ours to
be looked at, not subtracted: what differs between their measuring and ours is said above them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmcb.evaluation.comparison import NOT_MEASURED, Column, Rate
from mmcb.evaluation.differences import show_setting
from mmcb.evaluation.metrics import wilson_interval
from mmcb.evaluation.rows import Cell, attack_title
from mmcb.models.families import FAMILIES

FILE = Path(__file__).with_name("paper.json")


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row of the paper's table, with our numbers where we measure the same thing."""

    name: str
    original: float | None
    rerouted: float | None
    ours: tuple[Cell, ...]
    scale: str
    """Of ours: "share", or "number" as the paper's are printed."""
    how: tuple[str, ...]
    """What is measured for it here, where a command of its own does."""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One of the paper's tables beside ours."""

    title: str
    where: str
    """Table and rows in the paper."""
    columns: tuple[Column, ...]
    """Ours; none where nothing in this table was measured here."""
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True, slots=True)
class PaperTables:
    """Everything of the paper's that concerns a model."""

    family: str
    source: str
    warnings: tuple[str, ...]
    tables: tuple[PaperTable, ...]


def paper_tables(columns: Sequence[Column]) -> list[PaperTables]:
    """The paper's tables for each of its models that stands in a column."""
    data = _data()
    found = []
    for family, entry in data["families"].items():
        own = [c for c in columns if paper_family(_model(c)) == family]
        if own:
            warnings = tuple(dict.fromkeys(_warnings(entry["protocol"], own)))
            tables = tuple(_table(table, own) for table in entry["tables"])
            found.append(PaperTables(family, data["source"], warnings, tables))
    return found


def paper_family(model: str) -> str | None:
    """The paper's name in our table for a model: by family, hub id or released checkpoint."""
    for family, entry in _data()["families"].items():
        if model in (family, FAMILIES[family].hub_id, entry["released"]):
            return str(family)
    return None


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return data


def _model(column: Column) -> str:
    return str(column.evaluation.results["settings"]["model"])


def _table(table: Mapping[str, Any], columns: Sequence[Column]) -> PaperTable:
    rows = tuple(_row(row, columns) for row in table["rows"])
    measured = any(cell.rate["value"] is not None for row in rows for cell in row.ours)
    return PaperTable(table["title"], table["where"], tuple(columns) if measured else (), rows)


def _row(row: Mapping[str, Any], columns: Sequence[Column]) -> PaperRow:
    ours = tuple(Cell(column, _ours(column, row)) for column in columns)
    runs = [column.capability_run(row.get("benchmark", "")) for column in columns]
    return PaperRow(
        row["name"],
        row["original"],
        row["rerouted"],
        ours,
        scale=next((run["scale"] for run in runs if run), "share"),
        how=tuple(dict.fromkeys(run["how"] for run in runs if run)),
    )


def _ours(column: Column, row: Mapping[str, Any]) -> Rate:
    """Our number for a row: of a capability run, or of an attack by the headline's judge."""
    if "benchmark" in row:
        return column.rate("capability_runs", row["benchmark"], column.role)
    return _attacked(column, row["attack"]) if "attack" in row else NOT_MEASURED


def _attacked(column: Column, attack: str) -> Rate:
    """Hijacks of all categories together, as the paper has them."""
    judge = column.evaluation.judges[0]
    if attack != "image_hijack":
        return column.asr(judge, attack)
    parts = [column.asr(judge, key) for key in ("image_hijack", "image_hijack_heldout")]
    n = sum(part["n"] for part in parts)
    if n == 0:
        return NOT_MEASURED
    successes = sum(round(part["value"] * part["n"]) for part in parts if part["n"])
    low, high = wilson_interval(successes, n)
    return {"value": successes / n, "n": n, "low": low, "high": high}


def _warnings(protocol: Mapping[str, Any], columns: Sequence[Column]) -> Iterator[str]:
    for column in columns:
        evaluation = column.evaluation
        behaviors = (evaluation.results["settings"].get("sets") or {}).get("behaviors")
        count = f"{behaviors['n']} behaviors" if behaviors else "behaviors"
        yield f"Set: the paper's is {protocol['set']}; ours is {count} of the files named below."
        judge = evaluation.judges[0]
        if judge.partition("=")[0].partition(":")[0] not in protocol["judges"]:
            yield f"Judge: the paper's is {protocol['judge']}; ours is the {judge} judge."
        for attack, theirs in protocol["attacks"].items():
            yield from _budget(attack, theirs, column)
    yield "The paper gives neither intervals nor decoding settings."


def _budget(attack: str, theirs: Mapping[str, Any], column: Column) -> Iterator[str]:
    by_run = column.evaluation.results["settings"]["attack"].get("settings") or {}
    for run, roles in by_run.items():
        ours = roles.get(column.role) or {}
        keys = [key for key in theirs if key in ours and not _same(theirs[key], ours[key])]
        if run.partition(": ")[0] == attack and keys:
            shown = [
                ", ".join(f"{key.replace('_', ' ')} {show_setting(key, of[key])}" for key in keys)
                for of in (theirs, ours)
            ]
            name = attack_title(run)
            yield f"Budget of the {name}: the paper's is {shown[0]}; ours is {shown[1]}."


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, float) and isinstance(ours, int | float):
        return abs(theirs - ours) < 1e-9
    return bool(theirs == ours)
