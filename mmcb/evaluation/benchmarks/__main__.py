"""`python -m mmcb.evaluation.benchmarks`: published benchmarks as behaviors and tasks."""

from __future__ import annotations

from mmcb.cli import run_command
from mmcb.evaluation.benchmarks.config import BenchmarkConfig


def _run(config: BenchmarkConfig) -> None:
    from mmcb.evaluation.benchmarks.run import import_benchmark

    import_benchmark(config)


def main() -> None:
    """Run the command."""
    run_command(
        BenchmarkConfig,
        _run,
        prog="mmcb evaluation.benchmarks",
        description=(
            "Read a published benchmark's own files into the behaviors and tasks that "
            "`mmcb evaluation` and the attacks take. Pictures stay where they are."
        ),
    )


if __name__ == "__main__":
    main()
