"""`python -m mmcb.merge`: join the shards of `mmcb captioning --shard i/n`."""

from mmcb.captioning.config import MergeConfig
from mmcb.cli import run_command


def _run(config: MergeConfig) -> None:
    from mmcb.captioning.merge import merge

    merge(config)


def main() -> None:
    """Run the command."""
    run_command(
        MergeConfig,
        _run,
        prog="mmcb merge",
        description=(
            "Join the shards of a captioning run. Shards that are missing, unfinished, repeated or "
            "of other settings are named, and nothing is written."
        ),
    )


if __name__ == "__main__":
    main()
