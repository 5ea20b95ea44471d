"""Settings of the image hijack that do not go together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

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
    for wrong, message, hint in (*_of_one_picture_each(config), *_of_one_for_all(config)):
        if wrong:
            raise MmcbError(message, hint=hint)


def _of_one_picture_each(config: ImageHijackConfig) -> Iterator[tuple[bool, str, str]]:
    """Whether something is wrong, what, and what to do about it."""
    folder = config.image_folder
    yield (
        config.target == "string" and not config.target_string.strip(),
        "--target string (or its preset) has no string",
        'add --target-string "TEXT"',
    )
    yield (
        config.target != "string" and config.target_string != "",
        f"--target-string does nothing with --target {config.target}",
        "add --target string",
    )
    yield (
        folder is not None and not folder.is_dir(),
        f"--image-folder {folder}: there is no such folder",
        "give a folder of photographs",
    )
    yield (
        config.start == "base" and config.random_start,
        "--start base and --random-start are two places to begin at",
        "leave one of them out",
    )
    yield (
        config.start == "base" and config.target_models != "both",
        "--start base needs the base model's pictures",
        "add --target-models both",
    )
    yield (
        config.patch != "none" and (config.start == "base" or config.universal),
        "--patch goes with neither --universal nor --start base",
        "leave one of them out",
    )


def _of_one_for_all(config: ImageHijackConfig) -> Iterator[tuple[bool, str, str]]:
    """The same of what goes only with, or not with, a universal picture."""
    yield (
        config.target == "responses" and not config.universal,
        "--target responses makes one picture for all",
        "add --universal",
    )
    yield (
        config.universal and (config.target == "completion" or config.start == "base"),
        "--target completion and --start base are for one picture a behavior",
        "leave out --universal, or give behaviors with long targets",
    )
    yield (
        config.universal and config.validation_share + config.test_share >= 1,
        "--validation-share and --test-share leave no behavior to train on",
        "lower one of them",
    )
    yield (
        config.responses is not None and config.target != "responses",
        f"--responses does nothing with --target {config.target}",
        "add --target responses",
    )
