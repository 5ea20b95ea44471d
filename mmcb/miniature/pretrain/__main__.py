"""Makes the two shipped models: `python -m mmcb.miniature.pretrain`, in two hours on two cores."""

from mmcb.cli import run_command
from mmcb.miniature.pretrain.config import PretrainConfig


def _run(config: PretrainConfig) -> None:
    from mmcb.miniature.pretrain.stages import pretrain

    pretrain(config)


def main() -> None:
    """Entry point of `python -m mmcb.miniature.pretrain`."""
    run_command(
        PretrainConfig,
        _run,
        prog="mmcb miniature.pretrain",
        description="Train the two miniature models from nothing.",
    )


if __name__ == "__main__":
    main()
