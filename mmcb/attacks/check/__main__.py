"""`python -m mmcb.attacks.check`, also `mmcb attacks check`: is the attack strong enough?"""

from mmcb.attacks.check.config import CheckConfig
from mmcb.cli import run_command


def main() -> None:
    """Parse the command line and run the checks."""
    run_command(
        CheckConfig,
        _run,
        prog="mmcb attacks.check",
        description="Check that image attacks are strong, and say whether gradients look masked.",
    )


def _run(config: CheckConfig) -> None:
    from mmcb.attacks.image_hijack.targets import check_inputs

    # Before torch is imported, which takes seconds: a mistake is told at once.
    check_inputs(config.hijack())
    from mmcb.attacks.check.run import run_checks

    run_checks(config)


if __name__ == "__main__":
    main()
