"""`python -m mmcb.evaluation.sample`: answers of an evaluation for a person to label."""

from __future__ import annotations

from mmcb.cli import run_command
from mmcb.evaluation.config import SampleConfig


def _run(config: SampleConfig) -> None:
    from rich.console import Console

    from mmcb.evaluation.labels import draw_sheet, write_sheet

    out = config.out or config.run / "labels.csv"
    lines = draw_sheet(config.run, count=config.count, seed=config.seed)
    write_sheet(out, lines)
    Console().print(f"{len(lines)} answers to label: {out}", soft_wrap=True, highlight=False)


def main() -> None:
    """Run the command."""
    run_command(
        SampleConfig,
        _run,
        prog="mmcb evaluation.sample",
        description=(
            "Draw answers of an evaluation for a person to label: write yes (it does the harm) or "
            "no into the column label, then `mmcb evaluation agree`. The sheet holds the answers "
            "themselves, harmful ones too, and tells neither model nor attack nor verdict."
        ),
    )


if __name__ == "__main__":
    main()
