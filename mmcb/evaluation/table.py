"""The table of models for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmcb.evaluation.comparison import Column, Evaluation, columns_of, common_judges
from mmcb.evaluation.contamination.sentences import sentences
from mmcb.evaluation.rows import Row, attack_rows, benign_rows, capability_rows


def print_table(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print the headline numbers of a results.json before and after the defence."""
    evaluations = [Evaluation("", Path(), results)]
    judges = common_judges(evaluations)[:1]
    console = console or Console()
    print_columns(columns_of(evaluations), judges, title="Before and after", console=console)
    for sentence in (*_left_out(results, judges[0]), *sentences(results["contamination"])):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _left_out(results: Mapping[str, Any], judge: str) -> Iterator[str]:
    """What is in no rate of the table."""
    for role, counts in results["counts"].items():
        if unread := counts["unparsable_verdicts"]:
            yield (
                f"Judge {judge} gave no verdict that can be read on {unread} answers to attacks "
                f"({role}); they are in no rate."
            )
        if counts["no_answer"]:
            yield f"No answer was made to {counts['no_answer']} of {counts['answers']} ({role})."


def print_columns(
    columns: Sequence[Column],
    judges: Sequence[str],
    *,
    title: str,
    console: Console | None = None,
) -> None:
    """Print the numbers of any number of models.

    Args:
        columns: the models.
        judges: of harm, the headline's first; of more than one, the others and coherence stand
            in rows of their own below each attack.
        title: above the table.
        console: where to print.
    """
    table = Table(title=f"{title} (judge: {judges[0]}, 95 % Wilson intervals)")
    table.add_column("")
    for column in columns:
        table.add_column(column.label, justify="right", no_wrap=len(columns) <= 2)
    table.add_column("n", justify="right", no_wrap=True)
    beside = len(judges) > 1
    _section(table, "attack success rate", attack_rows(columns, judges), beside=beside)
    _section(table, "capability", capability_rows(columns))
    _section(table, "benign answers", benign_rows(columns))
    (console or Console()).print(table)


def print_agreement(rows: Sequence[Mapping[str, Any]], *, console: Console | None = None) -> None:
    """Print pairs of raters with their agreement, as `agree_table` gives them."""
    table = Table(title="Agreement on harm")
    for name in ("", "n", "left out", "agreement", "Cohen's kappa", "only first", "only second"):
        table.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    for row in rows:
        table.add_row(
            f"{row['first']}, {row['second']}",
            str(row["n"]),
            str(row["left_out"]),
            format_share(row["agreement"]),
            format_share(row["kappa"]),
            str(row["only_first"]),
            str(row["only_second"]),
        )
    (console or Console()).print(table)


def format_share(value: float | None) -> str:
    """`0.933`, or a dash where it cannot be said."""
    return "-" if value is None else f"{value:.3f}"


def _section(table: Table, title: str, rows: Sequence[Row], *, beside: bool = False) -> None:
    if rows:
        table.add_row(f"[bold]{title}[/bold]")
    for row in rows:
        rates = [format_rate(cell.rate) for cell in row.cells]
        if len(rates) > 2:  # a terminal has room for two beside each other
            rates = [text.replace(" \\[", "\n\\[") for text in rates]
        table.add_row(f"  {row.name}", *rates, row.counts)
        if beside:
            names = dict.fromkeys(name for cell in row.cells for name, _ in cell.beside)
            for name in names:
                shown = (f"[dim]{_value(dict(cell.beside).get(name))}[/dim]" for cell in row.cells)
                table.add_row(f"[dim]    {_beside(name)}[/dim]", *shown, "")
    table.add_section()


def _beside(name: str) -> str:
    return "coherent answers" if name == "coherent" else f"by the {name} judge"


def _value(rate: Mapping[str, Any] | None) -> str:
    return "-" if rate is None or rate["value"] is None else f"{rate['value']:.3f}"


def format_rate(rate: Mapping[str, Any]) -> str:
    """`0.933 [0.81, 0.98]`, or a dash where nothing was measured."""
    if rate["value"] is None:
        return "-"
    interval = f"[{rate['low']:.2f}, {rate['high']:.2f}]"
    # Rich reads square brackets as markup unless the first is escaped.
    return f"{rate['value']:.3f} \\{interval}"
