"""`python -m mmcb.synthesis --coco-root R`: captions, then circuit-breaker and retain sets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmcb.cli import run_command
from mmcb.errors import MmcbError
from mmcb.synthesis.config import TINY_WRITER, SynthesisConfig, preset

if TYPE_CHECKING:
    from mmcb.synthesis.parsing import Pair
    from mmcb.synthesis.writer import HarmJudge

MINIATURE = (
    "python -m mmcb.miniature && python -m mmcb.synthesis --coco-root data/miniature "
    f"--model tiny-llava-next --writer {TINY_WRITER}"
)
"""A synthesis command that works without COCO and without a download."""


def _run(config: SynthesisConfig) -> None:
    # The one place where synthesis meets other stages: the command captions first and hands in a
    # judge; the stages know only each other's files. (The exceptions stand in pyproject.toml.)
    from mmcb.captioning.caption import caption_images
    from mmcb.captioning.config import CaptioningConfig
    from mmcb.coco.config import ImagesConfig
    from mmcb.coco.folder import image_folders
    from mmcb.synthesis.pipeline import start_run, synthesize

    image_folders(config.coco_root, splits=config.splits, hint=MINIATURE)
    sees = _check_models(config)
    captioning = CaptioningConfig(
        **{name: getattr(config, name) for name in ImagesConfig.model_fields},
        model=config.model,
        prompt=config.caption_prompt,
        max_new_tokens=config.caption_max_new_tokens,
        batch_size=config.batch_size,
        engine=config.engine,
    )
    with start_run(config) as run:
        captioned = caption_images(captioning, missing_hint=MINIATURE)
        if next(iter(captioned), None) is None:
            raise MmcbError(
                f"none of the {len(captioned.index)} images in {config.coco_root} has a caption",
                hint=f"{captioned.path.with_name('skipped.jsonl')} says why",
            )
        synthesize(
            config,
            captioned,
            run=run,
            make_judge=_make_judge,
            sees=sees,
            licence_names=captioned.index.licenses,
        )


def _make_judge(name: str) -> "HarmJudge":
    """A harm judge of the evaluation, as the stage takes it: pairs in, labels out."""
    from mmcb.evaluation.judges import Sample, load_judge, rule_all

    judge = load_judge(name)

    def harmful(pairs: "Sequence[Pair]") -> list[bool | None]:
        samples = [Sample(prompt=pair.query, response=pair.completion) for pair in pairs]
        return [ruling.label for ruling in rule_all(judge, samples)]

    return harmful


def _check_models(config: SynthesisConfig) -> bool:
    """Say at once, not after hours, what cannot be had; returns whether --model sees."""
    from mmcb.evaluation.judges import find_judge
    from mmcb.generation.factory import check_available

    sees = True
    if config.source == "model" or config.refusal_fraction > 0:
        family = check_available(config.engine, config.model)
        sees = family is None or family.kind == "vlm"
    if config.source == "model" and not sees:
        raise MmcbError(
            f"{config.model} takes no images, so it cannot caption any",
            hint="take human captions: --source coco",
        )
    if config.harm_judge is not None:
        find_judge(config.harm_judge, "harm")
    try:
        check_available(config.engine, config.writer)
    except MmcbError as error:
        command = f"python -m mmcb.synthesis --coco-root {config.coco_root}"
        raise MmcbError(
            f"--writer: {error.message}",
            hint=f"{command} --model tiny-llava-next --writer {TINY_WRITER}",
        ) from None
    return sees


def main() -> None:
    """Run the command."""
    run_command(
        SynthesisConfig,
        _run,
        prog="mmcb synthesis",
        description=(
            "Make the circuit-breaker set and the retain set from the images of a COCO folder, "
            "captioning first what has no caption yet. The same command goes on where it was cut "
            "short."
        ),
        preset=preset,
        default_model="llava-next",
    )


if __name__ == "__main__":
    main()
