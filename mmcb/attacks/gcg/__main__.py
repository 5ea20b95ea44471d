"""`python -m mmcb.attacks.gcg`: attack the base and the defended model with searched tokens."""

from mmcb.attacks.gcg.config import GCGConfig
from mmcb.cli import run_command


def main() -> None:
    """Parse the command line and run the attack."""
    run_command(
        GCGConfig,
        _run,
        prog="mmcb attacks.gcg",
        description="Search for tokens behind each request that make a model comply (GCG).",
    )


def _run(config: GCGConfig) -> None:
    from mmcb.attacks.targets import locate_targets

    # Before torch is imported, which takes seconds: a mistake is told at once.
    locate_targets(config)
    from mmcb.attacks.gcg.run import run_gcg

    run_gcg(config)


if __name__ == "__main__":
    main()
