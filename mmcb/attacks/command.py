"""What the commands of all attacks do first: cheap checks, then torch. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from mmcb.attacks.config import AttackConfig
from mmcb.cli import run_command

ConfigT = TypeVar("ConfigT", bound=AttackConfig)


def run_attack(
    config_type: type[ConfigT],
    runner: str,
    *,
    description: str,
    check: Callable[[ConfigT], object],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Parse the command line and run an attack.

    Args:
        config_type: the command's settings.
        runner: `module:function` that takes them; imported when the checks are done.
        description: a sentence for `--help`.
        check: finds what a user may have got wrong, before torch is imported, which takes seconds.
        presets: what `--preset` may be.
    """

    def main(config: ConfigT) -> None:
        check(config)
        module, _, function = runner.partition(":")
        getattr(import_module(module), function)(config)

    prog = f"mmcb {config_type.command}"
    run_command(config_type, main, prog=prog, description=description, protocols=presets)
