"""`python -m mmcb.suite`: every attack on base and defended model, one evaluation of them all."""

from __future__ import annotations

from mmcb.cli import run_command
from mmcb.suite.config import SuiteConfig, preset


def _run(config: SuiteConfig) -> None:
    from mmcb.suite.file import read_suite

    # Before torch is imported, which takes seconds: a mistake is told at once.
    suite = read_suite(config.suite)
    from rich.console import Console

    from mmcb.evaluation.runs_table import print_runs
    from mmcb.suite.run import output_folder, run_suite

    results = run_suite(config)
    out = output_folder(config, suite)
    print_runs(results)
    Console().print(f"report: {out / 'evaluation/report.html'}", soft_wrap=True)


def main() -> None:
    """Run the command."""
    run_command(
        SuiteConfig,
        _run,
        prog="mmcb suite",
        description=(
            "Run every attack of a suite on the base and the defended model, then judge all of "
            "them and report. The same command resumes."
        ),
        preset=preset,
        default_model="tiny-llava-next",
    )


if __name__ == "__main__":
    main()
