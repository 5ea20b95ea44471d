"""The whole pipeline on the miniature world: `python -m mmcb.demo`, minutes on two cores.

Every stage is the command a user would run, with its defaults for the shipped models; this file
only names them in order. A stage that is done says so and is not done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from mmcb.cli import run_command
from mmcb.config import Config, UnitFraction

_VLM, _LLM = "tiny-llava-next", "tiny-mistral"


class DemoConfig(Config):
    """Caption, synthesize, train, attack, judge and report, on models the package carries."""

    out: Path = Path("runs/demo")
    """Folder of results.json, report.html and what led to them."""

    world: Path = Path("data/miniature")
    """The miniature world; drawn if it is not there."""

    epsilon: UnitFraction = 32 / 255
    """Largest change of a pixel in the image hijacks."""

    attack_steps: int = Field(default=100, ge=1)
    """Steps of every image hijack, on the base and on the defended model alike."""

    num_hijacks: int = Field(default=96, ge=2)
    """Behaviors to hijack a picture for; half are of categories that no training record has."""

    seed: int = 0
    """Seed of synthesis, training and attacks."""


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Runs what is missing of the demo; returns results.json's content."""
    sets = Path("data/synthesis") / config.world.name
    trainings = config.out.parent / "training"
    adapter = trainings / f"{config.out.name}-{_VLM}"
    stages: list[tuple[str, Callable[[], Any]]] = [
        ("draw the miniature world", lambda: _draw(config)),
        ("caption its pictures", lambda: _caption(config, sets)),
        ("write the circuit-breaker and retain sets", lambda: _synthesize(config, sets)),
        (f"reroute {_VLM}", lambda: _train(_VLM, config, sets, adapter)),
        ("hijack pictures against base and defended model", lambda: _attack(config, adapter)),
        ("the same code on a text-only model", lambda: _text_only(config, sets, trainings)),
        ("judge and report", lambda: _evaluate(config, adapter)),
    ]
    from mmcb.log import get_logger

    log = get_logger(__name__)
    result: Any = None
    began = time.monotonic()
    for number, (title, stage) in enumerate(stages, start=1):
        log.info("== %d/%d %s", number, len(stages), title)
        result = stage()
    log.info("demo done in %.1f min", (time.monotonic() - began) / 60)
    return dict(result)


def _draw(config: DemoConfig) -> None:
    from mmcb.miniature.config import MiniatureConfig
    from mmcb.miniature.world import write_world

    write_world(MiniatureConfig(out=config.world))


def _caption(config: DemoConfig, sets: Path) -> None:
    from mmcb.captioning.caption import caption_images
    from mmcb.captioning.config import preset

    caption_images(preset(_VLM).model_copy(update={"coco_root": config.world, "out": sets}))


def _synthesize(config: DemoConfig, sets: Path) -> None:
    from mmcb.records import Caption
    from mmcb.store import RecordFile
    from mmcb.synthesis.config import preset
    from mmcb.synthesis.pipeline import start_run, synthesize

    settings = preset(_VLM).model_copy(
        update={
            "coco_root": config.world,
            "out": sets,
            "seed": config.seed,
            # Word for word: in so small a language all requests are alike.
            "evaluation_sets": (config.world / "evaluation/requests.txt",),
            "max_bleu": 0.99,
        }
    )
    with start_run(settings) as run:
        synthesize(settings, RecordFile(sets / "captions.jsonl", Caption), run=run)


def _train(model: str, config: DemoConfig, sets: Path, out: Path) -> None:
    from mmcb.training.recipes import preset
    from mmcb.training.run import train

    train(preset(model).model_copy(update={"data": sets, "out": out, "seed": config.seed}))


def _attack(config: DemoConfig, adapter: Path) -> None:
    from mmcb.attacks.image_hijack.config import ImageHijackConfig
    from mmcb.attacks.image_hijack.run import run_image_hijack

    run_image_hijack(
        ImageHijackConfig(
            model=_VLM,
            adapter=str(adapter),
            behaviors=config.world / "evaluation/behaviors.jsonl",
            num_behaviors=config.num_hijacks,
            epsilon=config.epsilon,
            steps=config.attack_steps,
            batch_size=48,
            seed=config.seed,
            out=config.out / "hijacks",
        )
    )


def _text_only(config: DemoConfig, sets: Path, trainings: Path) -> None:
    from mmcb.evaluation.quick import evaluate_training_run
    from mmcb.evaluation.table import print_table

    run = trainings / f"{config.out.name}-{_LLM}"
    _train(_LLM, config, sets, run)
    print_table(evaluate_training_run(run, data=config.world))


def _evaluate(config: DemoConfig, adapter: Path) -> dict[str, Any]:
    from mmcb.evaluation.config import EvaluationConfig
    from mmcb.evaluation.pipeline import evaluate

    return evaluate(
        EvaluationConfig(
            model=_VLM,
            adapter=str(adapter / "adapter"),
            behaviors=config.world / "evaluation/behaviors.jsonl",
            text_behaviors=config.world / "evaluation/text_behaviors.jsonl",
            tasks=config.world / "evaluation/tasks.jsonl",
            triggers=config.world / "attacks/triggers.txt",
            hijacks=(config.out / "hijacks",),
            perplexity=True,
            show_harmful=True,  # the miniature's harm is invented words
            title="mmcb demo: tiny-llava-next before and after circuit breakers",
            out=config.out,
        )
    )


def _run(config: DemoConfig) -> None:
    from rich.console import Console

    from mmcb.evaluation.table import print_table

    print_table(run_demo(config))
    Console().print(f"report: {config.out / 'report.html'}", soft_wrap=True)


def main() -> None:
    """Entry point of `python -m mmcb.demo`."""
    run_command(
        DemoConfig,
        _run,
        prog="mmcb demo",
        description="Run the whole pipeline on the miniature world. The same command resumes.",
    )


if __name__ == "__main__":
    main()
