"""A suite's attacks as settings of their commands, all checked before the first one runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.cli import validate_settings
from mmcb.config import Config
from mmcb.errors import MmcbError
from mmcb.evaluation.config import EvaluationConfig
from mmcb.evaluation.config import preset as evaluation_preset
from mmcb.suite.commands import Command
from mmcb.suite.config import SuiteConfig
from mmcb.suite.file import Entry, Suite


@dataclass(frozen=True, slots=True)
class Stage:
    """A command with its settings, ready to run; `path` is its folder."""

    name: str
    command: Command
    config: Config
    path: Path


def attack_stages(
    config: SuiteConfig, suite: Suite, *, adapter: Path | None, text_only: bool, out: Path
) -> list[Stage]:
    """The attacks that are asked for and that the model can be attacked with, in order.

    Args:
        config: the command's settings.
        suite: the suite.
        adapter: the defended model's; None: the base model alone.
        text_only: the model takes no images.
        out: the suite's folder.

    Raises:
        MmcbError: a setting is wrong, or `only` names no attack of the suite.
    """
    names = [entry.name for entry in suite.entries]
    if missing := [name for name in config.only if name not in names]:
        raise MmcbError(
            f"{suite.path}: there is no attack {missing[0]!r}", hint=f"one of {', '.join(names)}"
        )
    left_out = _left_out(config, text_only=text_only)
    return [
        _stage(config, suite, entry, adapter=adapter, text_only=text_only, out=out)
        for entry in suite.entries
        if (not config.only or entry.name in config.only) and not left_out(entry)
    ]


def _left_out(config: SuiteConfig, *, text_only: bool) -> Callable[[Entry], bool]:
    """Whether an attack does not fit the model, or there is nothing to attack."""
    if text_only:
        # All that is attacked is text already.
        return lambda entry: entry.command.needs_images or entry.on_text
    return lambda entry: entry.on_text and config.text_behaviors is None


def evaluation_config(
    config: SuiteConfig, suite: Suite, stages: list[Stage], *, adapter: Path | None, out: Path
) -> EvaluationConfig:
    """The settings of the one evaluation of all attempts.

    Raises:
        MmcbError: a setting under `[evaluation]` is wrong.
    """
    runs = [str(stage.path) for stage in stages if stage.command.leaves_attempts]
    beside = [str(stage.path) for stage in stages if not stage.command.leaves_attempts]
    settings = _of_evaluation(config, suite.evaluation, adapter)
    settings |= {
        "hijacks": runs,
        "beside": beside,
        "tasks": config.tasks,
        "out": out / "evaluation",
    }
    given = {name: getattr(config, name) for name in ("cases", "translations", "scripts")}
    settings |= {name: value for name, value in given.items() if value}
    settings.setdefault("title", f"{Path(config.model).name}: every attack of {suite.name}")
    return validate_settings(EvaluationConfig, settings, where=f"{suite.path}: [evaluation]")


def _stage(
    config: SuiteConfig,
    suite: Suite,
    entry: Entry,
    *,
    adapter: Path | None,
    text_only: bool,
    out: Path,
) -> Stage:
    command, path = entry.command, out / "attacks" / entry.name
    if command.settings is EvaluationConfig:
        settings = _of_evaluation(config, entry.settings, adapter) | {"tasks": None}
    else:
        settings = _of_attack(config, entry, adapter, text_only=text_only)
    where = f"{suite.path}: attack {entry.name!r}"
    made = validate_settings(command.settings, settings | {"out": path}, where=where)
    return Stage(entry.name, command, made, path)


def _of_attack(
    config: SuiteConfig, entry: Entry, adapter: Path | None, *, text_only: bool
) -> dict[str, Any]:
    known = entry.command.settings.model_fields
    behaviors = config.text_behaviors if text_only or entry.on_text else config.behaviors
    shared: dict[str, Any] = {"seed": config.seed, "device": config.device}
    if config.tasks is not None:
        shared["harmless"] = config.tasks
    settings = {key: value for key, value in shared.items() if key in known}
    settings |= entry.settings
    # Without an adapter the base model alone is attacked, whatever `target_models` says.
    alone = adapter is None or settings.get("target_models") == "base"
    settings |= {"model": config.model, "adapter": "none" if alone else str(adapter)}
    if behaviors is not None:
        settings["behaviors"] = behaviors
    return settings | _at_most(config, settings, "num_behaviors")


def _of_evaluation(
    config: SuiteConfig, wanted: Mapping[str, Any], adapter: Path | None
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "judges": evaluation_preset(config.model).judges,
        "seed": config.seed,
        "triggers": None,
        "engine": {"device": config.device},
        **wanted,
        "model": config.model,
        "adapter": "none" if adapter is None else str(adapter),
        "behaviors": config.behaviors,
        "text_behaviors": config.text_behaviors,
    }
    if config.judges:
        settings["judges"] = config.judges
    return settings | _at_most(config, settings, "limit")


def _at_most(config: SuiteConfig, settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The suite's number of behaviors, or the command line's where that is smaller."""
    most, own = config.num_behaviors, settings.get(key)
    if most is None or (isinstance(own, int) and own <= most):
        return {}
    return {key: most}
