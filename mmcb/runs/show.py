"""`mmcb runs show`: one run's manifest, settings and results, for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from mmcb.cli import run_command
from mmcb.log import format_seconds
from mmcb.pages.curves import read_json
from mmcb.run_folder import read_manifest
from mmcb.runs.config import ShowConfig
from mmcb.runs.found import Run, evaluation_folder
from mmcb.runs.outcome import outcome


def main() -> None:
    """Parse the command line and show the run."""
    run_command(
        ShowConfig,
        show_run,
        prog="mmcb runs.show",
        description="Tell everything about a run: how it was made, its settings, what came out.",
    )


def show_run(config: ShowConfig) -> None:
    """Print the run.

    Raises:
        MmcbError: the folder is no run's.
    """
    run, console = Run(config.run, read_manifest(config.run)), Console()
    _section(console, f"{run.path}: {run.kind}", _story(run))
    _section(console, "Settings", _flat(run.manifest.get("config") or {}))
    versions = [(key, str(value)) for key, value in (run.manifest.get("versions") or {}).items()]
    _section(console, "Versions", [*versions, ("commit", _commit(run.manifest))])
    files = [(file.name, _size(file)) for file in sorted(run.path.iterdir()) if file.is_file()]
    _section(console, "Files", files)
    _results(run, console)


def _story(run: Run) -> Iterable[tuple[str, str]]:
    yield "state", run.state()
    yield "model", run.model
    yield "started", run.started.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if run.seconds is not None:
        yield "took", f"{format_seconds(run.seconds)}, pauses included"
    for name, one in (run.manifest.get("seconds") or {}).items():
        yield f"  {name}", f"{format_seconds(one['wall'])}, {format_seconds(one['cpu'])} of CPU"
    yield "on", str(run.manifest.get("hardware") or "")
    if run.manifest.get("resumed"):
        yield "resumed", f"{len(run.manifest['resumed'])} times"
    yield "command", " ".join(map(str, run.manifest.get("argv") or []))
    for name, source in (run.manifest.get("inputs") or {}).items():
        yield f"input {name}", f"{source['path']} (sha256 {source['sha256'][:12]})"


def _results(run: Run, console: Console) -> None:
    folder = evaluation_folder(run.path)
    results = read_json(folder / "results.json")
    if not results:
        _section(console, "Results", [("", outcome(run))])
    elif run.kind == "evaluation.lm_eval":
        from mmcb.evaluation.lm_eval import summary as lm_eval

        lm_eval.print_summary(results, console=console)
    elif run.kind == "evaluation.quality":
        from mmcb.evaluation.quality import summary as quality

        quality.print_summary(results, console=console)
    else:
        _evaluation(folder, console)
    for page in dict.fromkeys((run.path / "report.html", folder / "report.html")):
        if page.is_file():
            console.print(f"report: {escape(str(page))}", soft_wrap=True)


def _evaluation(folder: Path, console: Console) -> None:
    from mmcb.evaluation.comparison import columns_of, load_evaluation
    from mmcb.evaluation.report.headline import headline
    from mmcb.evaluation.report.words import warnings
    from mmcb.evaluation.table import print_columns

    evaluation = load_evaluation(folder)
    columns = columns_of([evaluation])
    sentences = [headline(columns), *warnings(evaluation.results)]
    _section(console, "Results", [("", sentence) for sentence in sentences])
    print_columns(columns, evaluation.judges, title="Results", console=console)
    if evaluation.results.get("runs"):
        from mmcb.evaluation.runs_table import print_runs

        print_runs(evaluation.results, console=console)


def _section(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    shown = [(name, value) for name, value in rows if value]
    if not shown:
        return
    width = max(len(name) for name, _ in shown)
    console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    for name, value in shown:
        label = f"[dim]{escape(name.ljust(width))}[/dim]  " if width else ""
        console.print(f"  {label}{escape(value)}", soft_wrap=True, highlight=False)
    console.print()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _word(value)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_word, value)) or "none"
    return "none" if value is None else str(value)


def _commit(manifest: Mapping[str, Any]) -> str:
    git = manifest.get("git") or {}
    return f"{git.get('commit') or 'unknown'}{' (dirty)' if git.get('dirty') else ''}"


def _size(file: Path) -> str:
    size = file.stat().st_size
    return (
        f"{size} B"
        if size < 10_000
        else f"{size / 1e3:.0f} kB"
        if size < 1e7
        else f"{size / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
