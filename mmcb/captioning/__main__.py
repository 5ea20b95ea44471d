"""`python -m mmcb.captioning --coco-root R`: caption the images of a COCO folder."""

from mmcb.captioning.config import CaptioningConfig, preset
from mmcb.cli import run_command


def _run(config: CaptioningConfig) -> None:
    from mmcb.captioning.caption import caption_images

    caption_images(config)


def main() -> None:
    """Run the command."""
    run_command(
        CaptioningConfig,
        _run,
        prog="mmcb captioning",
        description=(
            "Caption the images of a COCO folder with a vision-language model, or take COCO's own "
            "captions. The same command goes on where it was cut short."
        ),
        preset=preset,
        default_model="llava-next",
    )


if __name__ == "__main__":
    main()
