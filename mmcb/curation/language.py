"""Which language a text is in, by py3langid: a fixed model of 140 languages, no download."""

from __future__ import annotations

from functools import cache
from typing import Any

from mmcb.errors import MmcbError

SURE = 0.9
"""Probability from which another language is believed: short texts look like many."""


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check_language(code: str) -> None:
    """Say at once that a language is not known.

    Raises:
        MmcbError: It is none of the identifier's.
    """
    known = sorted(str(label) for label in _identifier().labels)
    if code not in known:
        raise MmcbError(f"--language {code}: no such language", hint=f"one of {', '.join(known)}")


def is_foreign(text: str, language: str) -> bool:
    """Whether a text is surely of another language than this one."""
    found, probability = _identifier().classify(text)
    return bool(found != language and probability >= SURE)
