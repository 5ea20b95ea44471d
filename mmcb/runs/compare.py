"""`mmcb runs compare`: evaluations side by side, in the terminal and as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmcb.cli import run_command
from mmcb.errors import MmcbError
from mmcb.runs.config import CompareConfig
from mmcb.runs.found import evaluation_folder

if TYPE_CHECKING:
    from mmcb.evaluation.comparison import Column, Evaluation


def main() -> None:
    """Parse the command line and compare."""
    run_command(
        CompareConfig,
        compare_runs,
        prog="mmcb runs.compare",
        description="Put evaluations of any number of models side by side, and say what differs.",
    )


def compare_runs(config: CompareConfig) -> None:
    """Print the comparison and, with --out, write its page.

    Raises:
        MmcbError: a folder is no finished evaluation, or their headline judges differ.
    """
    from mmcb.evaluation.comparison import columns_of, common_judges
    from mmcb.evaluation.table import print_columns

    evaluations = _read(config)
    columns, console = columns_of(evaluations), Console()
    _models(console, columns)
    print_columns(columns, common_judges(evaluations), title="Side by side", console=console)
    _differences(console, evaluations)
    if config.out is not None:
        _write_page(config, evaluations, config.out)
        console.print(f"page: {escape(str(config.out))}", soft_wrap=True)


def _read(config: CompareConfig) -> list[Evaluation]:
    from mmcb.evaluation.comparison import load_evaluation

    if not config.runs:
        raise MmcbError("nothing to compare", hint="name the folders of finished evaluations")
    if config.names and len(config.names) != len(config.runs):
        raise MmcbError(f"{len(config.names)} names for {len(config.runs)} runs")
    if config.out is not None and config.out.suffix != ".html":
        raise MmcbError(f"--out {config.out}: a page's name ends in .html")
    names = config.names or _names(config.runs)
    return [
        load_evaluation(evaluation_folder(run), name=name)
        for run, name in zip(config.runs, names, strict=True)
    ]


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; their paths where two have the same name."""
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def _models(console: Console, columns: Sequence[Column]) -> None:
    for column in columns:
        settings = column.evaluation.results["settings"]
        adapter = "" if column.role == "base" else f" with {settings['adapter']}"
        line = f"{column.label}: {settings['model']}{adapter}, in {column.evaluation.folder}"
        console.print(escape(line), soft_wrap=True, highlight=False)


def _differences(console: Console, evaluations: Sequence[Evaluation]) -> None:
    from mmcb.evaluation.differences import MEANING, find_differences

    found = find_differences(evaluations)
    if len(evaluations) > 1 and not found:
        console.print("Nothing differs but the models.")
    for weight, sentence in MEANING.items():
        rows = [difference for difference in found if difference.weight == weight]
        if not rows:
            continue
        style = "dim" if weight == "software" else "bold yellow"
        console.print(f"[{style}]{sentence}[/]", soft_wrap=True)
        table = Table(box=None, header_style="dim", pad_edge=False)
        for name in ("setting", *(evaluation.name for evaluation in evaluations)):
            table.add_column(escape(name), overflow="fold")
        for row in rows:
            table.add_row(escape(row.name), *map(escape, row.values))
        console.print(table)


def _write_page(config: CompareConfig, evaluations: Sequence[Evaluation], out: Path) -> None:
    from mmcb.evaluation.report.page import render_page
    from mmcb.evaluation.reread import with_answers
    from mmcb.store import write_atomic

    page = render_page(
        [with_answers(evaluation) for evaluation in evaluations],
        title=config.title,
        command="mmcb runs compare",
        show_harmful=config.show_harmful,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)


if __name__ == "__main__":
    main()
