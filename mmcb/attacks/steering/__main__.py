"""`python -m mmcb.attacks.steering`: find what the evaluation is to take out of the activations."""

from mmcb.attacks.steering.config import SteeringConfig
from mmcb.cli import run_command


def main() -> None:
    """Parse the command line and run the attack."""
    run_command(
        SteeringConfig,
        _run,
        prog="mmcb attacks.steering",
        description="Find the refusal direction of each model, for attempts that run without it.",
    )


def _run(config: SteeringConfig) -> None:
    from mmcb.attacks.targets import locate_targets

    # Before torch is imported, which takes seconds: a mistake is told at once.
    locate_targets(config)
    from mmcb.attacks.steering.run import run_steering

    run_steering(config)


if __name__ == "__main__":
    main()
