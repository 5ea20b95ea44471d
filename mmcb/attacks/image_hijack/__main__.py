"""`python -m mmcb.attacks.image_hijack`: attack the base and the defended model with pictures."""

from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.presets import PRESETS
from mmcb.cli import run_command


def main() -> None:
    """Parse the command line and run the attack."""
    run_command(
        ImageHijackConfig,
        _run,
        prog="mmcb attacks.image_hijack",
        description="Optimise pictures (PGD on raw 8-bit pixels) that make a model comply.",
        protocols={name: settings for name, settings in PRESETS.items()},
    )


def _run(config: ImageHijackConfig) -> None:
    from mmcb.attacks.image_hijack.targets import check_inputs

    # Before torch is imported, which takes seconds: a mistake is told at once.
    check_inputs(config)
    from mmcb.attacks.image_hijack.run import run_image_hijack

    run_image_hijack(config)


if __name__ == "__main__":
    main()
