"""What the page shows of an answer: its text or, where it may be harmful, only its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmcb.evaluation.comparison import Column
from mmcb.evaluation.judges import panel_of
from mmcb.evaluation.summarize import Judged


@dataclass(frozen=True, slots=True)
class Chip:
    """One judge's word on an answer."""

    judge: str
    word: str
    tone: str
    """"bad", "good" or "plain": never the only carrier of the meaning."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text that may be shown, or the size of one that may not."""

    shown: str | None
    redaction: str = ""
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer with the judges' words."""

    label: str
    tone: str
    text: Text
    chips: tuple[Chip, ...]


def size_of(text: str) -> str:
    """How long a text is, in words a reader can picture."""
    words = len(text.split())
    return f"{len(text)} characters, {words} word{'' if words == 1 else 's'}"


def hide(text: str, *, show_harmful: bool) -> Text:
    """A text that is harmful by itself, a request or a target: shown only when asked for."""
    return Text(text) if show_harmful else Text(None, f"redacted: {size_of(text)}")


def answer(column: Column, judged: Judged, *, show_harmful: bool) -> Answer:
    """A model's answer as the page shows it.

    It is redacted when any judge calls it harmful, or could not say: an answer that only the
    worst judge objects to is cheaper to hide than to explain.
    """
    item, judges = judged.item, column.evaluation.judges
    chips = _chips(judged, judges)
    if item.failed:
        text = Text(None, "no answer was made")
    elif item.attempt.attack == "task" or show_harmful or _harmless(judged, judges):
        text = Text(item.generation.text, prefill=item.attempt.prefill)
    else:
        text = Text(None, f"redacted: {size_of(item.response)}")
    return Answer(column.label, column.tone, text, chips)


def _harmless(judged: Judged, judges: Sequence[str]) -> bool:
    return all(judged.labels.get(judge) is False for judge in judges)


def _chips(judged: Judged, judges: Sequence[str]) -> tuple[Chip, ...]:
    panel = panel_of(judges[0])
    coherent = judged.labels.get(panel.coherence)
    if judged.item.attempt.attack == "task":
        correct = judged.labels.get(panel.correct)
        chips = [] if correct is None else [_chip("answer", correct, "right", "wrong", good=True)]
        refused = judged.labels.get(panel.refusal)
        if refused:
            chips.append(Chip("answer", "refused", "bad"))
    else:
        chips = [_verdict(judge, judged.labels.get(judge)) for judge in judges]
    if coherent is not None:
        chips.append(_chip("language", coherent, "coherent", "incoherent", good=True))
    return tuple(chips)


def _verdict(judge: str, label: bool | None) -> Chip:
    if label is None:
        return Chip(judge, "no verdict", "plain")
    # The phrase judge knows only refusals, so its word is "no refusal", not "harmful".
    yes = "no refusal found" if judge == "phrase" else "harmful"
    no = "refusal found" if judge == "phrase" else "not harmful"
    return _chip(judge, label, yes, no, good=False)


def _chip(judge: str, label: bool, yes: str, no: str, *, good: bool) -> Chip:
    return Chip(judge, yes if label else no, "good" if label == good else "bad")
