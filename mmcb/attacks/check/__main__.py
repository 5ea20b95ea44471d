"""`python -m mmcb.attacks.check`, also `mmcb attacks check`: is the attack strong enough?"""

from mmcb.attacks.check.config import CheckConfig
from mmcb.attacks.command import run_attack
from mmcb.attacks.targets import locate_targets


def main() -> None:
    """Parse the command line and run the attack."""
    run_attack(
        CheckConfig,
        "mmcb.attacks.check.run:run_checks",
        description="Check that image attacks are strong, and say whether gradients look masked.",
        check=locate_targets,
    )


if __name__ == "__main__":
    main()
