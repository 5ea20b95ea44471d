"""The attempts that an evaluation makes by itself: rewritten requests, and those from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmcb.attacks.attempts import AttemptFile
from mmcb.attacks.prompts import read_templates, text_attempts
from mmcb.attacks.static import (
    case_attempts,
    multi_turn_attempts,
    read_cases,
    read_scripts,
    read_translations,
    translated_attempts,
)
from mmcb.evaluation.config import EvaluationConfig
from mmcb.records import Attempt, Behavior


def made_of_words(
    config: EvaluationConfig, behaviors: Sequence[Behavior], *, to: AttemptFile
) -> Iterator[Attempt]:
    """Every attack in words that the settings ask for, on every behavior, for one model.

    Args:
        config: the settings.
        behaviors: the records.
        to: where the attempts go.

    Raises:
        MmcbError: a file is missing or holds something else.
    """
    triggers = config.triggers if "trigger" in config.attacks else None
    templates = () if triggers is None else read_templates(triggers)
    for attack in config.attacks:
        if attack == "trigger" and not templates:
            continue
        yield from text_attempts(
            behaviors, attack, to=to, templates=templates, every_template=config.every_trigger
        )
    for path in config.cases:
        yield from case_attempts(behaviors, read_cases(path), name=case_name(path), to=to)
    if config.translations is not None:
        yield from translated_attempts(behaviors, read_translations(config.translations), to=to)
    if config.scripts is not None:
        yield from multi_turn_attempts(behaviors, read_scripts(config.scripts), to=to)


def case_name(path: Path) -> str:
    """Which cases a file holds: its name or, in HarmBench's folders, its method's.

    HarmBench's are all called METHOD/EXPERIMENT/test_cases/test_cases.json.
    """
    if path.parent.name != "test_cases":
        return path.stem
    experiment, method = path.parents[1].name, path.parents[2].name
    return method if experiment == "default" else f"{method}/{experiment}"
