"""The report's table of refusals: a row a benchmark and half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcb.evaluation.comparison import Column
from mmcb.evaluation.refusals import OWN
from mmcb.evaluation.rows import Cell, Row


def refusal_rows(columns: Sequence[Column]) -> list[Row]:
    """Share of plain requests refused, where any model was asked."""
    names = dict.fromkeys(
        (benchmark, half)
        for column in columns
        for benchmark, halves in _table(column).items()
        for half in halves
    )
    return [
        Row(
            f"{half} requests" if benchmark == OWN else f"{benchmark}, {half} half",
            tuple(
                Cell(column, column.rate("refusals", benchmark, half, column.role))
                for column in columns
            ),
        )
        for benchmark, half in names
    ]


def _table(column: Column) -> Mapping[str, Any]:
    found: Mapping[str, Any] = column.evaluation.results.get("refusals", {})
    return found
