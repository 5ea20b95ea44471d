"""Settings of the image hijack that do not go together. Imports no torch."""

from __future__ import annotations

from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.targets import Targets, locate_targets
from mmcb.errors import MmcbError


def check_inputs(config: ImageHijackConfig) -> tuple[ImageHijackConfig, Targets]:
    """The settings with model, adapter and behaviors found, after every cheap check of them.

    Raises:
        MmcbError: as `check_settings` and `locate_targets`.
    """
    check_settings(config)
    return locate_targets(config)


def check_settings(config: ImageHijackConfig) -> None:
    """Settings that do not go together.

    Raises:
        MmcbError: there are some.
    """
    shares = config.validation_share + config.test_share
    problems = (
        (
            config.target == "string" and not config.target_string,
            "--target string (or its preset) has no string",
            'add --target-string "TEXT"',
        ),
        (
            config.target == "responses" and not config.universal,
            "--target responses makes one picture for all",
            "add --universal",
        ),
        (
            config.target == "completion" and config.universal,
            "--target completion is for one picture a behavior",
            "leave out --universal, or give behaviors with long targets",
        ),
        (
            config.patch != "none" and (config.start == "base" or config.universal),
            "--patch goes with neither --universal nor --start base",
            "leave one of them out",
        ),
        (
            config.start == "base" and config.universal,
            "--start base is for one picture a behavior",
            "leave out --universal",
        ),
        (
            config.start == "base" and config.target_models != "both",
            "--start base needs the base model's pictures",
            "add --target-models both",
        ),
        (
            config.universal and shares >= 1,
            "--validation-share and --test-share leave no behavior to train on",
            "lower one of them",
        ),
    )
    for wrong, message, hint in problems:
        if wrong:
            raise MmcbError(message, hint=hint)
