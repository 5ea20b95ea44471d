"""Which of several lettered choices an answer names: by its line, its letter, or its words."""

from __future__ import annotations

import re
from collections.abc import Sequence

_FIRST = re.compile(r"\W*([A-Z])\b(?=\s*[.):,]|\W*$)")
_TOLD = re.compile(r"\b(?:answer|choice|option)\b(?:\s+is)?\W*([A-Z])\b", re.IGNORECASE)


def named_choice(answer: str, choices: Sequence[str]) -> int | None:
    """The index of the one choice that the answer names; None for none, or for several.

    In this order: the choice's whole line, the letter that the answer begins with, the letter that
    it says is the answer, the choice's words without the letter.

    Args:
        answer: what a model said to a question that asks for the letter and text of one choice.
        choices: their lines, `A. text` and so on.
    """
    lines = [i for i, line in enumerate(choices) if _plain(line) in _plain(answer)]
    if lines:
        return _only(lines)
    letters = {line[0]: i for i, line in enumerate(choices)}
    alone = answer.strip().upper() if len(answer.strip()) == 1 else answer
    if (first := _FIRST.match(alone)) and first[1] in letters:
        return letters[first[1]]
    told = {letter for letter in _TOLD.findall(answer) if letter in letters}
    if told:
        return _only([letters[letter] for letter in told])
    return _only(_by_words(answer, choices))


def _by_words(answer: str, choices: Sequence[str]) -> list[int]:
    """The choices whose words stand together in the answer, but for those inside a longer one."""
    texts = [_words(line.partition(".")[2]) for line in choices]
    found = [i for i, text in enumerate(texts) if text.strip() and text in _words(answer)]
    return [i for i in found if not any(i != k and texts[i] in texts[k] for k in found)]


def _only(found: Sequence[int]) -> int | None:
    return found[0] if len(found) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _words(text: str) -> str:
    """Words with a space on both sides of each, so that only whole ones are found."""
    return re.sub(r"[\W_]+", " ", f" {text.lower()} ")
