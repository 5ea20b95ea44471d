"""`python -m mmcb.training`: train circuit breakers by representation rerouting."""

from __future__ import annotations

import sys
from pathlib import Path

from mmcb.cli import run_command
from mmcb.training.config import TrainingConfig


def main() -> None:
    """Read the command line and train."""
    from mmcb.training.recipes import preset

    run_command(
        TrainingConfig,
        _run,
        prog="mmcb training",
        description="Train circuit breakers into a model by representation rerouting.",
        preset=preset,
        default_model="llava-next",
    )


def _run(config: TrainingConfig) -> None:
    from mmcb.log import get_logger, is_main_process

    if config.recipe:
        from mmcb.training.recipes import recipe_of

        sys.stdout.write(recipe_of(config).model_dump_json(indent=2) + "\n")
        where = config.out or "runs/training/MODEL-TIME"
        get_logger(__name__).info("nothing was loaded; a run saves this as %s/recipe.json", where)
        return
    from mmcb.training.processes import one_voice

    with one_voice():
        path, evaluates = _trained(config)
    if evaluates and is_main_process():
        # The one place that reaches up: a command may end with another command's work.
        from mmcb.evaluation.quick import evaluate_training_run

        evaluate_training_run(path)
        from mmcb.training.outputs import write_outputs

        write_outputs(path)  # the card tells what was measured
    if config.push_to_hub is not None and is_main_process():
        from mmcb.training.publish import push

        push(config, path)


def _trained(config: TrainingConfig) -> tuple[Path, bool]:
    """The run's folder, and whether an evaluation is to follow, which is settled first."""
    from mmcb.log import get_logger
    from mmcb.models.locate import check_model

    check_model(config.model)  # before torch is imported, which takes seconds
    from mmcb.training.publish import check_push

    check_push(config)
    from torch import distributed

    from mmcb.training.run import train, wants_evaluation

    evaluates = wants_evaluation(config)
    path = train(config)
    get_logger(__name__).info("adapter: %s, report: %s", path / "adapter", path / "report.html")
    if distributed.is_initialized():
        distributed.destroy_process_group()  # what follows is the main process's alone
    return path, evaluates


if __name__ == "__main__":
    main()
