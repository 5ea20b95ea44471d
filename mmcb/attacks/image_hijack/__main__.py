"""`python -m mmcb.attacks.image_hijack`: attack the base and the defended model with pictures."""

from mmcb.attacks.command import run_attack
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.presets import PRESETS
from mmcb.attacks.image_hijack.targets import check_inputs


def main() -> None:
    """Parse the command line and run the attack."""
    run_attack(
        ImageHijackConfig,
        "mmcb.attacks.image_hijack.run:run_image_hijack",
        description="Optimise pictures (PGD on raw 8-bit pixels) that make a model comply.",
        check=check_inputs,
        presets={str(name): settings for name, settings in PRESETS.items()},
    )


if __name__ == "__main__":
    main()
