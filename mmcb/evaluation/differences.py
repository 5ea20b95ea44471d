"""What differs between evaluations besides the models: numbers of other settings do not compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmcb.evaluation.comparison import Evaluation
from mmcb.evaluation.facts import show_epsilon
from mmcb.evaluation.rows import attack_title

Weight = Literal["measuring", "attack", "software"]
"""`measuring`: what was asked and how it was judged; `attack`: how strong the attacks were;
`software`: versions and devices, which move little."""

MEANING: Mapping[Weight, str] = {
    "measuring": "These were measured in different ways; their numbers do not compare as they are.",
    "attack": "The attacks were not equally strong.",
    "software": "Made by different software: small differences may come from it.",
}
"""What each kind of difference means for the reader, in a sentence."""

_SOFTWARE = frozenset(
    {"torch", "torchvision", "transformers", "pillow", "image_backend", "device", "dtype"}
)
# What is compared is meant to differ.
_MEANT = frozenset({"adapter", "base_model"})
# By the engine's own rule it changes no answer.
_HARMLESS = frozenset({"batch_size"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is not the same everywhere."""

    weight: Weight
    name: str
    values: tuple[str, ...]
    """One for each evaluation, in their order."""


def find_differences(evaluations: Sequence[Evaluation]) -> list[Difference]:
    """Every setting on which the evaluations differ, the gravest kind first.

    A setting that one of them does not know (an attack it was not put to) is no difference.
    """
    facts = [_facts(evaluation.results) for evaluation in evaluations]
    names = dict.fromkeys(name for one in facts for name in one)
    found = []
    for weight, name in names:
        values = [one.get((weight, name)) for one in facts]
        if len({value for value in values if value is not None}) > 1:
            shown = tuple("-" if value is None else value for value in values)
            found.append(Difference(weight, name, shown))
    order = list(MEANING)
    return sorted(found, key=lambda difference: order.index(difference.weight))


def _facts(results: Mapping[str, Any]) -> dict[tuple[Weight, str], str]:
    settings = results["settings"]
    facts: dict[tuple[Weight, str], str] = {}
    for name in ("behaviors", "tasks"):
        one = (settings.get("sets") or {}).get(name)
        known = "not recorded" if one is None else f"{one['n']} ({one['hash'][:8]})"
        facts["measuring", f"set of {name}"] = known
    facts["measuring", "judges"] = ", ".join(results["judges"])
    for key, value in (settings.get("decoding") or {}).items():
        if key not in _HARMLESS:
            facts["measuring", key.replace("_", " ")] = str(value)
    for attack, by_role in (settings["attack"].get("settings") or {}).items():
        for role, values in by_role.items():
            facts |= _attack_facts(f"{attack_title(attack)} on {role}", values)
    facts["software", "engine"] = str(settings.get("engine"))
    for key, value in (settings.get("versions") or {}).items():
        facts["software", key] = str(value)
    git = settings.get("git") or {}
    facts["software", "commit"] = str(git.get("commit"))[:12]
    return facts


def _attack_facts(where: str, values: Mapping[str, Any]) -> dict[tuple[Weight, str], str]:
    facts: dict[tuple[Weight, str], str] = {}
    for key, value in values.items():
        if key in _MEANT | _HARMLESS:
            continue
        weight: Weight = "software" if key in _SOFTWARE else "attack"
        facts[weight, f"{where}: {key.replace('_', ' ')}"] = show_setting(key, value)
    return facts


def show_setting(key: str, value: Any) -> str:
    """A setting of an attack as a person reads it: pixel steps as n/255, lists with commas."""
    if isinstance(value, list):
        return ", ".join(show_setting(key, item) for item in value)
    return show_epsilon(value) if key in ("epsilon", "step_size") else str(value)
