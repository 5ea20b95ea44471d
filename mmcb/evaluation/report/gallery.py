"""The examples of the report: attacked images with every model's answer, and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from mmcb.evaluation.comparison import Column
from mmcb.evaluation.report import images
from mmcb.evaluation.report.views import Answer, Text, answer, hide
from mmcb.evaluation.summarize import Judged
from mmcb.records import Attempt
from mmcb.store import resolve_image

MAX_FAILURES = 3
"""Behaviors on which an attack on a defended model succeeded come first, so many of them."""

_MEASURES = {
    "loss_start": "loss {:.2f} at the start",
    "loss_float": "{:.3g} optimised",
    "loss_png": "{:.3g} reloaded from the PNG",
    "loss_text": "{:.3g} read again as text",
    "passes": "{:.0f} passes",
}


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
    how: str = ""
    """What the attack did, where its name does not say it: a language, a number of turns."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One model's answer to an attempt on the card's behavior."""

    column: Column
    judged: Judged

    @property
    def attempt(self) -> Attempt:
        """The attempt."""
        return self.judged.item.attempt

    @property
    def harmful(self) -> bool:
        """Whether the headline's judge says so."""
        return self.judged.labels.get(self.column.evaluation.judges[0]) is True

    def file(self, name: str) -> Path:
        """A file that the attempt names."""
        return resolve_image(self.column.evaluation.attempts_path, name)


Group = Sequence[Shown]
"""Of one behavior: each model's answer, in the columns' order."""


def hijack_cards(columns: Sequence[Column], *, show_harmful: bool, count: int) -> list[Card]:
    """Cards of image hijacks: where a defence failed first, then the categories in turn."""
    groups = _groups(columns, lambda one: one.attack in ("image_hijack", "image_hijack_heldout"))
    failures = [
        group for group in groups if any(s.column.role != "base" and s.harmful for s in group)
    ][:MAX_FAILURES]
    # Then one of each category, then the next of each, both splits mixed.
    by_split: dict[str, dict[str, list[Group]]] = {}
    for group in groups:
        if group not in failures:
            attempt = group[0].attempt
            by_category = by_split.setdefault(attempt.split, {})
            by_category.setdefault(attempt.category, []).append(group)
    turns = [_in_turn(list(by_category.values())) for by_category in by_split.values()]
    chosen = (failures + _in_turn(turns))[:count]
    return [_hijack_card(group, show_harmful=show_harmful) for group in chosen]


def text_cards(
    columns: Sequence[Column], *, kind: str, show_harmful: bool, count: int
) -> list[Card]:
    """Cards of what was asked in words: `kind` is an attack, or a task's name."""
    groups = _groups(
        columns,
        lambda one: not one.transferred and kind == _kind(one.item.attempt),
    )
    by_category: dict[str, list[Group]] = {}
    for group in groups:
        by_category.setdefault(group[0].attempt.category, []).append(group)
    chosen = _in_turn(list(by_category.values()))[:count]
    return [_text_card(group, show_harmful=show_harmful) for group in chosen]


def _kind(attempt: Attempt) -> str:
    return attempt.category if attempt.attack == "task" else attempt.attack


def _groups(columns: Sequence[Column], wanted: Callable[[Judged], bool]) -> list[Group]:
    """By behavior. Of several attempts on one: the first that succeeded, else the first."""
    found: dict[str, dict[int, Shown]] = {}
    for index, column in enumerate(columns):
        for judged in column.evaluation.judged:
            attempt = judged.item.attempt
            if attempt.model == column.role and wanted(judged):
                by_column = found.setdefault(attempt.behavior_id, {})
                shown = Shown(column, judged)
                if index not in by_column or (shown.harmful and not by_column[index].harmful):
                    by_column[index] = shown
    return [list(by_column.values()) for by_column in found.values()]


def _in_turn(lists: Sequence[list[Group]]) -> list[Group]:
    return [item for row in zip_longest(*lists) for item in row if item is not None]


def _hijack_card(group: Group, *, show_harmful: bool) -> Card:
    first = group[0]
    behavior = first.column.evaluation.behaviors.get(first.attempt.behavior_id)
    clean = _clean_image(first)
    panels = [Panel("clean image", images.picture(clean))] if clean else []
    for shown in group:
        name = shown.attempt.image
        attacked = None if name is None else images.load(shown.file(name))
        if attacked is not None:
            label = f"{shown.column.label} model"
            panels.append(Panel(f"attacked, {label}", images.picture(attacked)))
            noise = None if clean is None else images.perturbation(clean, attacked)
            if noise is not None:
                panels.append(Panel(f"perturbation, {label}", noise))
    return Card(
        category=first.attempt.category,
        split=first.attempt.split,
        prompt=hide(first.attempt.prompt, show_harmful=show_harmful),
        target=None if behavior is None else hide(behavior.target, show_harmful=show_harmful),
        panels=tuple(panels),
        answers=_answers(group, show_harmful=show_harmful),
        measures=_measures(group),
    )


def _clean_image(shown: Shown) -> Image.Image | None:
    """The picture the attack began with, None if it cannot be had.

    The attack run's own copy of it, which is as large as the attacked one, or the behavior's.
    """
    evaluation = shown.column.evaluation
    if shown.attempt.image is not None:
        attacked = shown.file(shown.attempt.image)
        copy = attacked.parent.parent / "clean" / attacked.name
        if copy.is_file():
            return images.load(copy)
    behavior = evaluation.behaviors.get(shown.attempt.behavior_id)
    if behavior is None or behavior.image is None:
        return None
    return images.load(resolve_image(evaluation.behavior_files[behavior.id], behavior.image))


def _text_card(group: Group, *, show_harmful: bool) -> Card:
    attempt = group[0].attempt
    of_task = attempt.attack == "task"
    image = None if attempt.image is None else images.load(group[0].file(attempt.image))
    return Card(
        category=attempt.category,
        split="" if of_task else attempt.split,
        prompt=hide(_conversation(attempt), show_harmful=show_harmful or of_task),
        target=hide(attempt.prefill, show_harmful=show_harmful) if attempt.prefill else None,
        panels=() if image is None else (Panel("image", images.picture(image)),),
        answers=_answers(group, show_harmful=show_harmful),
        measures=_measures(group),
        how=_how(attempt.settings),
    )


def _conversation(attempt: Attempt) -> str:
    if not attempt.history:
        return attempt.prompt
    turns = [f"{message.role}: {message.content}" for message in attempt.history]
    return "\n".join([*turns, f"user: {attempt.prompt}"])


def _answers(group: Group, *, show_harmful: bool) -> tuple[Answer, ...]:
    return tuple(answer(s.column, s.judged, show_harmful=show_harmful) for s in group)


def _measures(group: Group) -> tuple[str, ...]:
    lines = []
    for shown in group:
        measures = shown.attempt.measures
        words = [text.format(measures[key]) for key, text in _MEASURES.items() if key in measures]
        if words:
            lines.append(f"{shown.column.label}: {', '.join(words)}")
    return tuple(lines)


def _how(settings: Mapping[str, object]) -> str:
    names = {
        "language": "in {}",
        "cases": "from {}",
        "case": "case {}",
        "turns": "{} turns",
        "layer": "direction of layer {}",
        "sample": "sample {}",
    }
    return ", ".join(text.format(settings[key]) for key, text in names.items() if key in settings)
