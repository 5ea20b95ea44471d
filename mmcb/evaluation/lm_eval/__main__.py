"""`python -m mmcb.evaluation.lm_eval`: lm-eval's tasks before and after the defence."""

from __future__ import annotations

from mmcb.cli import run_command
from mmcb.evaluation.lm_eval.config import LmEvalConfig, preset


def _run(config: LmEvalConfig) -> None:
    from rich.console import Console

    from mmcb.evaluation.lm_eval.run import output_folder, run_lm_eval
    from mmcb.evaluation.lm_eval.summary import print_summary

    results = run_lm_eval(config)
    print_summary(results)
    Console().print(f"results: {output_folder(config) / 'results.json'}", soft_wrap=True)


def main() -> None:
    """Run the command."""
    run_command(
        LmEvalConfig,
        _run,
        prog="mmcb evaluation.lm_eval",
        description=(
            "Run tasks of EleutherAI's lm-evaluation-harness on the base model and with the "
            "adapter, with the same settings; by default the paper's. The same command again goes "
            "on with what is missing."
        ),
        preset=preset,
        default_model="tiny-mistral",
    )


if __name__ == "__main__":
    main()
