"""`mmcb runs ls`: the runs on disk, one after the other."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from mmcb.cli import run_command
from mmcb.log import format_seconds
from mmcb.runs.config import LsConfig
from mmcb.runs.found import Run, find_runs
from mmcb.runs.outcome import outcome

_COLOURS = {"finished": "green", "failed": "red"}


def main() -> None:
    """Parse the command line and list the runs."""
    run_command(
        LsConfig,
        list_runs,
        prog="mmcb runs.ls",
        description="List runs: state, date, time, kind, model, headline number; the newest first.",
    )


def list_runs(config: LsConfig) -> None:
    """Print the runs: one line each, and what came out of it below.

    Raises:
        MmcbError: there is no such folder.
    """
    found = [
        run
        for run in find_runs(config.root)
        if (config.kind is None or f"{run.kind}.".startswith(f"{config.kind}."))
        and (config.model is None or run.model == config.model)
    ]
    console = Console()
    if not found:
        console.print(f"no such run in {escape(str(config.root))}", soft_wrap=True)
        return
    shown = found[: config.limit]
    widths = [max(len(cell) for cell in column) for column in zip(*map(_cells, shown), strict=True)]
    for run in shown:
        state, *cells = (cell.ljust(w) for cell, w in zip(_cells(run), widths, strict=True))
        colour = _COLOURS.get(state.strip(), "yellow")
        line = "  ".join([f"[{colour}]{state}[/]", *map(escape, cells), escape(str(run.path))])
        console.print(line, soft_wrap=True, highlight=False)
        if words := outcome(run):
            line = f"{' ' * widths[0]}  [dim]{escape(words)}[/]"
            console.print(line, soft_wrap=True, highlight=False)
    if len(found) > len(shown):
        console.print(f"... and {len(found) - len(shown)} older ones (--limit)")


def _cells(run: Run) -> tuple[str, ...]:
    started = run.started.astimezone().strftime("%Y-%m-%d %H:%M")
    took = "" if run.seconds is None else format_seconds(run.seconds)
    return run.state(), started, took, run.kind, run.model


if __name__ == "__main__":
    main()
