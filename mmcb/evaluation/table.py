"""The before/after table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

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

CAPABILITY_NAMES = {
    "caption": "captions",
    "vqa": "visual questions",
    "fact": "facts",
    "benign_howto": "benign how-to",
}
"""How the capability tasks are called wherever a person reads them."""


def print_table(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print the headline numbers of a results.json before and after the defence."""
    console = console or Console()
    models = results["models"]
    judge = next(iter(results["judges"]))
    table = Table(title=f"Before and after (judge: {judge}, 95 % Wilson intervals)")
    table.add_column("", no_wrap=True)
    for role in models:
        table.add_column(role, justify="right", no_wrap=True)
    table.add_column("n", justify="right")
    _section(table, "attack success rate", ASR_NAMES, {r: m["asr"] for r, m in models.items()})
    _section(table, "capability", CAPABILITY_NAMES, {r: m["capability"] for r, m in models.items()})
    names = {"over_refusal": "refused", "coherence_benign": "coherent"}
    _section(table, "benign answers", names, models)
    console.print(table)


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


def _section(
    table: Table, title: str, names: Mapping[str, str], rates: Mapping[str, Mapping[str, Any]]
) -> None:
    table.add_row(f"[bold]{title}[/bold]")
    for key, name in names.items():
        # A text-only model has no pictures to be attacked with: leave such rows out.
        if any(numbers[key]["n"] for numbers in rates.values()):
            counts = dict.fromkeys(str(numbers[key]["n"]) for numbers in rates.values())
            cells = [format_rate(numbers[key]) for numbers in rates.values()]
            table.add_row(f"  {name}", *cells, "/".join(counts))
    table.add_section()


def format_rate(rate: Mapping[str, Any]) -> str:
    """`0.933 [0.81, 0.98]`, or a dash where nothing was measured."""
    if rate["value"] is None:
        return "-"
    interval = f"[{rate['low']:.2f}, {rate['high']:.2f}]"
    # Rich reads square brackets as markup unless the first is escaped.
    return f"{rate['value']:.3f} \\{interval}"
