"""The report's table of attacks one by one, and which of them is the strongest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmcb.evaluation.by_run import SPLITS, TRANSFER
from mmcb.evaluation.differences import show_setting
from mmcb.evaluation.report.words import percent
from mmcb.evaluation.rows import ASR_NAMES

_ROLES = ("base", "defended", TRANSFER)
_WORDS = {"train": "trained", "heldout": "held-out"}

Cell = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunRow:
    """One attack: its cells of each split, base, defended and shown to the defended."""

    name: str
    kind: str
    """Which attack it is, and its bound and steps where it has them."""
    cells: tuple[Cell | None, ...]

    @property
    def counts(self) -> str:
        """How many answers a cell counts."""
        return " / ".join(dict.fromkeys(str(cell["n"]) for cell in self.cells if cell))

    @property
    def passes(self) -> str:
        """Mean passes spent on a behavior, `base / defended`; a dash where there were none."""
        spent = [self._passes(role) for role in ("base", "defended")]
        return (
            " / ".join("-" if one is None else f"{one:.0f}" for one in spent) if any(spent) else "-"
        )

    def _passes(self, role: str) -> float | None:
        """Of both splits together."""
        own = [cell for i, cell in enumerate(self.cells) if _ROLES[i % len(_ROLES)] == role]
        made = [(cell["passes"], cell["n"]) for cell in own if cell and "passes" in cell]
        total = sum(n for _, n in made)
        return sum(spent * n for spent, n in made) / total if total else None


@dataclass(frozen=True, slots=True)
class RunTable:
    """The attacks of one evaluation."""

    name: str
    rows: tuple[RunRow, ...]
    strongest: str
    """A sentence; empty where no defended model was attacked."""


def run_table(name: str, results: Mapping[str, Any]) -> RunTable:
    """The table of an evaluation from `runs` in its results.json, as `rates_by_run` gives them."""
    runs: Mapping[str, Any] = results.get("runs", {})
    settings = results.get("settings", {}).get("attack", {}).get("settings", {})
    rows = [
        RunRow(
            run,
            _kind(row["attack"], settings.get(f"{row['attack']}: {run}", {})),
            tuple(row[split].get(role) for split in SPLITS for role in _ROLES),
        )
        for run, row in runs.items()
    ]
    return RunTable(name, tuple(rows), _strongest(runs))


def _kind(attack: str, by_role: Mapping[str, Mapping[str, Any]]) -> str:
    """`image hijack, within 32/255, 100 steps`."""
    words = [ASR_NAMES[attack]]
    settings: Mapping[str, Any] = next(iter(by_role.values()), {})
    if settings.get("epsilon") == 1:
        words.append("no bound")
    elif "epsilon" in settings:
        words.append(f"within {show_setting('epsilon', settings['epsilon'])}")
    if "steps" in settings:
        words.append(f"{settings['steps']} steps")
    return ", ".join(words)


def _strongest(runs: Mapping[str, Any]) -> str:
    found = []
    for split in SPLITS:
        # What was made for the base alone, and shown, is an attack on the defended model too.
        cells = [
            (run, row[split].get("defended") or row[split].get(TRANSFER))
            for run, row in runs.items()
        ]
        measured = [(run, cell) for run, cell in cells if cell and cell["value"] is not None]
        if measured:
            run, cell = max(measured, key=lambda pair: float(pair[1]["value"]))
            rate = f"{run} with {percent(cell)} (n = {cell['n']})" if cell["value"] else "none"
            found.append(f"on {_WORDS[split]} categories {rate}")
    return f"What succeeds most on the defended model: {', '.join(found)}." if found else ""
