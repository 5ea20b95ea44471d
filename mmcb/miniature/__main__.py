"""Draws the miniature world: `python -m mmcb.miniature`."""

from mmcb.cli import run_command
from mmcb.miniature.config import MiniatureConfig


def _run(config: MiniatureConfig) -> None:
    from mmcb.miniature.world import write_world

    write_world(config)


def main() -> None:
    """Entry point of `python -m mmcb.miniature`."""
    run_command(
        MiniatureConfig,
        _run,
        prog="mmcb miniature",
        description="Draw the miniature world as a COCO folder.",
    )


if __name__ == "__main__":
    main()
