"""`python -m mmcb.synthesis --coco-root R`: captions, then circuit-breaker and retain sets."""

from mmcb.cli import run_command
from mmcb.errors import MmcbError
from mmcb.synthesis.config import TINY_WRITER, SynthesisConfig, preset

MINIATURE = (
    "python -m mmcb.miniature && python -m mmcb.synthesis --coco-root data/miniature "
    f"--model tiny-llava-next --writer {TINY_WRITER}"
)
"""A synthesis command that works without COCO and without a download."""


def _run(config: SynthesisConfig) -> None:
    # The one place where synthesis meets captioning: the command does both, the stages know only
    # each other's files. (The exception stands in pyproject.toml beside the import contract.)
    from mmcb.captioning.caption import caption_images
    from mmcb.captioning.coco import list_images
    from mmcb.captioning.config import CaptioningConfig
    from mmcb.synthesis.pipeline import start_run, synthesize

    list_images(config.coco_root, splits=config.splits, limit=1, hint=MINIATURE)
    sees = _check_models(config)
    captioning = CaptioningConfig(
        coco_root=config.coco_root,
        source=config.source,
        model=config.model,
        out=config.folder,
        splits=config.splits,
        num_images=config.num_images,
        captions_per_image=config.captions_per_image,
        prompt=config.caption_prompt,
        max_new_tokens=config.caption_max_new_tokens,
        batch_size=config.batch_size,
        engine=config.engine,
    )
    with start_run(config) as run:
        captioned = caption_images(captioning, missing_hint=MINIATURE)
        if not captioned.captions:
            raise MmcbError(
                f"none of the {len(captioned.notes)} images in {config.coco_root} has a caption",
                hint=f"{captioned.path.with_name('skipped.jsonl')} says why",
            )
        synthesize(config, captioned.captions, run=run, sees=sees)


def _check_models(config: SynthesisConfig) -> bool:
    """Say at once, not after hours, what cannot be had; returns whether --model sees."""
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
