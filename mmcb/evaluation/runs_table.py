"""The table of single runs, for a terminal and in Markdown: each attack on both models.

What was made for the base and only shown to the defended model stands in rows of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mmcb.evaluation.by_run import SPLITS, TRANSFER

_HEADS = {"train": "trained", "heldout": "held-out"}


def print_runs(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print attack success of every run, with n and what it spent.

    Args:
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
    for name, run in run_rows(results["runs"]):
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


def runs_markdown(results: Mapping[str, Any]) -> str:
    """The table as Markdown: harmful answers of n, their interval, the loss that was reached."""
    roles = list(results["models"])
    heads = [f"{role}, {_HEADS[split]}" for split in SPLITS for role in roles]
    lines = [f"| attack | {' | '.join(heads)} | loss |", f"|---|{'--:|' * (len(heads) + 1)}"]
    for name, run in run_rows(results["runs"]):
        cells = [run[split].get(role) for split in SPLITS for role in roles]
        # The attacked model's: the defended one, where there is one.
        losses = [run[split].get(roles[-1], {}).get("loss_float") for split in SPLITS]
        shown = ["-" if loss is None else f"{loss:.2f}" for loss in losses]
        loss = "-" if losses == [None, None] else " / ".join(shown)
        lines.append(f"| {name} | {' | '.join(map(_counted, cells))} | {loss} |")
    return "\n".join(lines) + "\n"


def _counted(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["value"] is None:
        return "-"
    # A behavior with several attempts counts by its share of them.
    count = f"{cell['value'] * cell['n']:.1f}".removesuffix(".0")
    return f"{count} of {cell['n']} ({cell['low']:.2f} to {cell['high']:.2f})"


def run_rows(runs: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and rates of every attack, as `rates_by_run` gives them.

    Where a behavior has several attempts, a second row counts behaviors on which any succeeded;
    where an attack on the base was shown to the defended model, another row has that.
    """
    for name, run in runs.items():
        yield name, run
        parts = {split: {**run[split]} for split in SPLITS}
        shown = {split: roles.pop(TRANSFER, None) for split, roles in parts.items()}
        any_of = {
            split: {role: cell["any"] for role, cell in roles.items() if "any" in cell}
            for split, roles in parts.items()
        }
        if any(any_of.values()):
            yield f"{name}, any", any_of
        if any(shown.values()):
            yield f"{name}, shown", {s: {"defended": c} if c else {} for s, c in shown.items()}
