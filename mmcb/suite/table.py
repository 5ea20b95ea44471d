"""A suite's table for a terminal: each attack on both models, trained and held-out categories."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mmcb.evaluation.by_run import SPLITS, TRANSFER

_HEADS = {"train": "trained", "heldout": "held-out"}


def print_suite(out: Path, results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print attack success of every attack of a suite, with n and what it spent.

    Args:
        out: the suite's folder, for the evaluations that are attacks of their own.
        results: of the evaluation of all attempts.
        console: where to print.
    """
    table = Table(
        title="Attack success in %, 95 % Wilson intervals", box=box.SIMPLE, pad_edge=False
    )
    table.add_column("")
    for split in SPLITS:
        for role in results["models"]:
            table.add_column(f"{_HEADS[split]}\n{role}", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("passes", justify="right", no_wrap=True)
    for name, run in suite_rows(out, results):
        cells = [run[split].get(role) for split in SPLITS for role in results["models"]]
        shown = ["-" if cell is None else _stacked(cell) for cell in cells]
        counts = dict.fromkeys(str(cell["n"]) for cell in cells if cell is not None)
        spent = max((cell["passes"] for cell in cells if cell and "passes" in cell), default=None)
        table.add_row(name, *shown, "/".join(counts), "-" if spent is None else f"{spent:.0f}")
    (console or Console()).print(table)


def _stacked(cell: Mapping[str, Any]) -> str:
    """A rate with its interval below it: a terminal has no room for four of them in a line."""
    if cell["value"] is None:
        return "-"
    value, low, high = (f"{100 * cell[key]:.0f}" for key in ("value", "low", "high"))
    return f"{value}\n[dim]{low}-{high}[/dim]"


def suite_rows(out: Path, results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and rates of every attack, as `rates_by_run` gives them.

    Where a behavior has several attempts, a second row counts behaviors on which any succeeded.
    """
    yield from _with_any(results["runs"])
    for path in sorted((out / "attacks").glob("*/results.json")):
        own = json.loads(path.read_text(encoding="utf-8"))["runs"]
        yield from _with_any({f"{path.parent.name}: {name}": run for name, run in own.items()})


def _with_any(runs: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, run in runs.items():
        yield name, run
        any_of: dict[str, dict[str, Any]] = {
            split: {
                role: cell["any"]
                for role, cell in run[split].items()
                if role != TRANSFER and "any" in cell
            }
            for split in SPLITS
        }
        if any(any_of.values()):
            yield f"{name}, any", any_of
