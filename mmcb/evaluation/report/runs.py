"""The report's table of attacks one by one, and which of them is the strongest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmcb.evaluation.by_run import SPLITS, TRANSFER
from mmcb.evaluation.report.words import percent

_ROLES = ("base", "defended", TRANSFER)
_WORDS = {"train": "trained", "heldout": "held-out"}

Cell = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunRow:
    """One attack: its cells of each split, base, defended and shown to the defended."""

    name: str
    cells: tuple[Cell | None, ...]

    @property
    def counts(self) -> str:
        """How many answers a cell counts."""
        return " / ".join(dict.fromkeys(str(cell["n"]) for cell in self.cells if cell))

    @property
    def passes(self) -> str:
        """Passes spent on a behavior by both models; a dash where there were none."""
        own = [cell for i, cell in enumerate(self.cells) if _ROLES[i % len(_ROLES)] != TRANSFER]
        spent = [f"{cell['passes']:.0f}" for cell in own if cell and "passes" in cell]
        return " / ".join(dict.fromkeys(spent)) or "-"


@dataclass(frozen=True, slots=True)
class RunTable:
    """The attacks of one evaluation."""

    name: str
    rows: tuple[RunRow, ...]
    strongest: str
    """A sentence; empty where no defended model was attacked."""


def run_table(name: str, runs: Mapping[str, Any]) -> RunTable:
    """The table of an evaluation from `runs` in its results.json.

    Args:
        name: of the evaluation.
        runs: as `rates_by_run` gives them.
    """
    rows = [
        RunRow(run, tuple(row[split].get(role) for split in SPLITS for role in _ROLES))
        for run, row in runs.items()
    ]
    return RunTable(name, tuple(rows), _strongest(runs))


def _strongest(runs: Mapping[str, Any]) -> str:
    found = []
    for split in SPLITS:
        cells = [(run, row[split].get("defended")) for run, row in runs.items()]
        measured = [(run, cell) for run, cell in cells if cell and cell["value"] is not None]
        if measured:
            run, cell = max(measured, key=lambda pair: float(pair[1]["value"]))
            rate = f"{run} with {percent(cell)} (n = {cell['n']})" if cell["value"] else "none"
            found.append(f"on {_WORDS[split]} categories {rate}")
    return f"What succeeds most on the defended model: {', '.join(found)}." if found else ""
