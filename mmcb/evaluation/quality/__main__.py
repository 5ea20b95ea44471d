"""`python -m mmcb.evaluation.quality`: MT-Bench and LLaVA-Bench before and after the defence."""

from __future__ import annotations

from mmcb.cli import run_command
from mmcb.evaluation.quality.config import QualityConfig


def _run(config: QualityConfig) -> None:
    from rich.console import Console

    from mmcb.evaluation.quality.run import measure_quality, output_folder
    from mmcb.evaluation.quality.summary import print_summary

    results = measure_quality(config)
    print_summary(results)
    Console().print(f"results: {output_folder(config) / 'results.json'}", soft_wrap=True)


def main() -> None:
    """Run the command."""
    run_command(
        QualityConfig,
        _run,
        prog="mmcb evaluation.quality",
        description=(
            "Put MT-Bench's or LLaVA-Bench's questions to a model before and after its defence and "
            "have a judge grade the answers. The same command again resumes."
        ),
    )


if __name__ == "__main__":
    main()
