"""The examples of the report: attacked images with both models' answers, and texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from mmcb.evaluation.inputs import Inputs
from mmcb.evaluation.report import images
from mmcb.evaluation.report.views import Answer, Text, answer, hide
from mmcb.evaluation.summarize import Judged
from mmcb.records import Attempt
from mmcb.store import resolve_image

MAX_FAILURES = 3
"""Behaviors on which the attack on the defended model succeeded come first, so many of them."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a card."""

    label: str
    picture: images.Picture


@dataclass(frozen=True, slots=True)
class Card:
    """One behavior: its pictures, and what each model said."""

    category: str
    split: str
    prompt: Text
    target: Text | None
    panels: tuple[Panel, ...]
    answers: tuple[Answer, ...]
    measures: tuple[str, ...] = ()


def hijack_cards(
    judged: Sequence[Judged],
    inputs: Inputs,
    *,
    attempts_path: Path,
    judges: Sequence[str],
    show_harmful: bool,
    count: int = 8,
) -> list[Card]:
    """Cards of image hijacks: where the defence failed first, then the categories in turn."""
    by_behavior: dict[str, dict[str, Judged]] = {}
    for one in judged:
        if one.attack in ("image_hijack", "image_hijack_heldout"):
            attempt = one.item.attempt
            by_behavior.setdefault(attempt.behavior_id, {})[attempt.model] = one
    groups = _choose(by_behavior.values(), judges[0], count)
    return [
        _hijack_card(
            group,
            inputs,
            attempts_path=attempts_path,
            judges=judges,
            show_harmful=show_harmful,
        )
        for group in groups
    ]


def _choose(groups: Iterable[dict[str, Judged]], judge: str, count: int) -> list[dict[str, Judged]]:
    groups = list(groups)
    failures = [g for g in groups if "defended" in g and g["defended"].labels.get(judge) is True][
        :MAX_FAILURES
    ]
    # Then one of each category, then the next of each, both splits mixed.
    by_split: dict[str, dict[str, list[dict[str, Judged]]]] = {}
    for group in groups:
        if group not in failures:
            attempt = next(iter(group.values())).item.attempt
            by_category = by_split.setdefault(attempt.split, {})
            by_category.setdefault(attempt.category, []).append(group)
    turns = [_in_turn(list(by_category.values())) for by_category in by_split.values()]
    return (failures + _in_turn(turns))[:count]


def _in_turn(lists: Sequence[list[dict[str, Judged]]]) -> list[dict[str, Judged]]:
    return [item for row in zip_longest(*lists) for item in row if item is not None]


def _hijack_card(
    group: dict[str, Judged],
    inputs: Inputs,
    *,
    attempts_path: Path,
    judges: Sequence[str],
    show_harmful: bool,
) -> Card:
    roles = [role for role in ("base", "defended") if role in group]
    attempt = group[roles[0]].item.attempt
    behavior = inputs.behaviors.get(attempt.behavior_id)
    clean = _clean_image(attempt, inputs, attempts_path)
    panels = [Panel("clean image", images.picture(clean))] if clean else []
    for role in roles:
        image = group[role].item.attempt.image
        attacked = None if image is None else images.load(resolve_image(attempts_path, image))
        if attacked is not None:
            panels.append(Panel(f"attacked, {role} model", images.picture(attacked)))
            noise = None if clean is None else images.perturbation(clean, attacked)
            if noise is not None:
                panels.append(Panel(f"perturbation, {role} model", noise))
    return Card(
        category=attempt.category,
        split=attempt.split,
        prompt=hide(attempt.prompt, show_harmful=show_harmful),
        target=None if behavior is None else hide(behavior.target, show_harmful=show_harmful),
        panels=tuple(panels),
        answers=tuple(
            answer(group[role], judges=judges, show_harmful=show_harmful) for role in roles
        ),
        measures=tuple(_measures(role, group[role]) for role in roles),
    )


def _clean_image(attempt: Attempt, inputs: Inputs, attempts_path: Path) -> Image.Image | None:
    """The picture the attack began with, None if it cannot be had.

    The attack run's own copy of it, which is as large as the attacked one, or the behavior's.
    """
    if attempt.image is not None:
        attacked = resolve_image(attempts_path, attempt.image)
        copy = attacked.parent.parent / "clean" / attacked.name
        if copy.is_file():
            return images.load(copy)
    behavior = inputs.behaviors.get(attempt.behavior_id)
    if behavior is None or behavior.image is None:
        return None
    return images.load(resolve_image(inputs.behavior_files[behavior.id], behavior.image))


def _measures(role: str, judged: Judged) -> str:
    measures = judged.item.attempt.measures
    names = {
        "loss_start": "loss {:.2f} on the clean image",
        "loss_float": "{:.3g} optimised",
        "loss_png": "{:.3g} reloaded from the PNG",
        "passes": "{:.0f} gradient steps",
    }
    shown = [text.format(measures[key]) for key, text in names.items() if key in measures]
    return f"{role}: {', '.join(shown)}" if shown else ""


def text_cards(
    judged: Sequence[Judged],
    *,
    kind: str,
    attempts_path: Path,
    judges: Sequence[str],
    show_harmful: bool,
    count: int,
) -> list[Card]:
    """Cards of what was asked in words: `kind` is a text attack, or a task's name."""
    groups: dict[str, dict[str, Judged]] = {}
    for one in judged:
        attempt = one.item.attempt
        if kind == (attempt.category if attempt.attack == "task" else attempt.attack):
            groups.setdefault(attempt.behavior_id, {})[attempt.model] = one
    by_category: dict[str, list[dict[str, Judged]]] = {}
    for group in groups.values():
        category = next(iter(group.values())).item.attempt.category
        by_category.setdefault(category, []).append(group)
    chosen = _in_turn(list(by_category.values()))[:count]
    return [
        _text_card(group, judges, attempts_path=attempts_path, show_harmful=show_harmful)
        for group in chosen
    ]


def _text_card(
    group: dict[str, Judged], judges: Sequence[str], *, attempts_path: Path, show_harmful: bool
) -> Card:
    roles = [role for role in ("base", "defended") if role in group]
    attempt = group[roles[0]].item.attempt
    path = None if attempt.image is None else resolve_image(attempts_path, attempt.image)
    image = None if path is None else images.load(path)
    return Card(
        category=attempt.category,
        split="" if attempt.attack == "task" else attempt.split,
        prompt=hide(attempt.prompt, show_harmful=show_harmful or attempt.attack == "task"),
        target=hide(attempt.prefill, show_harmful=show_harmful) if attempt.prefill else None,
        panels=() if image is None else (Panel("image", images.picture(image)),),
        answers=tuple(
            answer(group[role], judges=judges, show_harmful=show_harmful) for role in roles
        ),
    )
