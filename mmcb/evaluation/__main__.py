"""`python -m mmcb.evaluation`: put attacks and tasks to both models, judge, report."""

from __future__ import annotations

from mmcb.cli import run_command
from mmcb.evaluation.config import EvaluationConfig, preset


def main() -> None:
    """Run the command line."""
    run_command(
        EvaluationConfig,
        _run,
        prog="mmcb evaluation",
        description=(
            "Put direct requests, trigger phrases, prefills and image hijacks to a model before "
            "and after its defence, measure what it can still do, and write results.json and "
            "report.html. The same command again resumes."
        ),
        preset=preset,
        default_model="tiny-llava-next",
    )


def _run(config: EvaluationConfig) -> None:
    # Imported here so that --help does not wait for what only a run needs.
    from rich.console import Console

    from mmcb.evaluation.pipeline import evaluate, output_folder
    from mmcb.evaluation.table import print_table

    results = evaluate(config)
    print_table(results)
    Console().print(f"report: {output_folder(config) / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main()
