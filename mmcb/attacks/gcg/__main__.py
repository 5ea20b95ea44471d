"""`python -m mmcb.attacks.gcg`: attack the base and the defended model with searched tokens."""

from mmcb.attacks.command import run_attack
from mmcb.attacks.gcg.config import GCGConfig
from mmcb.attacks.targets import locate_targets


def main() -> None:
    """Parse the command line and run the attack."""
    run_attack(
        GCGConfig,
        "mmcb.attacks.gcg.run:run_gcg",
        description="Search for tokens behind each request that make a model comply (GCG).",
        check=locate_targets,
    )


if __name__ == "__main__":
    main()
