"""`python -m mmcb.attacks.steering`: find what the evaluation is to take out of the activations."""

from mmcb.attacks.command import run_attack
from mmcb.attacks.steering.config import SteeringConfig
from mmcb.attacks.targets import locate_targets


def main() -> None:
    """Parse the command line and run the attack."""
    run_attack(
        SteeringConfig,
        "mmcb.attacks.steering.run:run_steering",
        description="Find the refusal direction of each model, for attempts that run without it.",
        check=locate_targets,
    )


if __name__ == "__main__":
    main()
