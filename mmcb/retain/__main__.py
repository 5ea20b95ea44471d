"""`python -m mmcb.retain`: a retain set of exact parts, and nothing the model is measured on."""

from mmcb.cli import run_command
from mmcb.retain.config import RetainConfig


def _run(config: RetainConfig) -> None:
    from mmcb.generation.factory import check_available
    from mmcb.retain.run import make_retain_set

    if config.borderline:
        check_available(config.engine, config.model)
    make_retain_set(config)


def main() -> None:
    """Run the command."""
    run_command(
        RetainConfig,
        _run,
        prog="mmcb retain",
        description=(
            "Mix a retain set: chats, instructions, LLaVA-Instruct, the benign twins and refusals "
            "of a synthesis folder, borderline prompts answered by the model itself. The same "
            "command goes on where it was cut short."
        ),
    )


if __name__ == "__main__":
    main()
