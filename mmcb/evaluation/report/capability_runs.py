"""The report's table of what lm-eval, MT-Bench and LLaVA-Bench gave for the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmcb.evaluation.comparison import Column
from mmcb.evaluation.rows import Cell

_NAMES = {
    "paper_average": "Open LLM, mean of six",
    "mt-bench": "MT-Bench",
    "llava-bench-coco": "LLaVA-Bench (COCO)",
    "llava-bench-wild": "LLaVA-Bench (in the wild)",
}
"""Where a benchmark's own name says less; lm-eval's tasks keep theirs."""


@dataclass(frozen=True, slots=True)
class CapabilityRunRow:
    """A benchmark's number of every model."""

    name: str
    how: str
    scale: str
    cells: tuple[Cell, ...]


def capability_run_rows(columns: Sequence[Column]) -> list[CapabilityRunRow]:
    """A row for each benchmark that was measured for any of the models."""
    runs = {
        name: run
        for column in columns
        for name, run in column.evaluation.results.get("capability_runs", {}).items()
    }
    return [
        CapabilityRunRow(
            _NAMES.get(name, name),
            run["how"],
            run["scale"],
            tuple(Cell(c, c.rate("capability_runs", name, c.role)) for c in columns),
        )
        for name, run in runs.items()
    ]
