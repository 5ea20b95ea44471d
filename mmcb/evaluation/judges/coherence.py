"""Coherence without a model: is this readable language, or what a broken model says?

Rerouted models fail in a few recognisable ways: nothing at all, one token or one phrase over
and over, strings of symbols, and words glued from fragments. Each has a test below. The test
is deliberately lenient: it must not call a short right answer ("two .") incoherent.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from mmcb.evaluation.judges import Ruling, Sample

MAX_RUN = 4
"""So many times the same word in a row is a loop."""

LOOP_WORDS = 12
"""Repetition is only looked for in texts of at least so many words."""

MIN_DISTINCT = 0.25
"""Share of distinct words below which a text is a loop."""

MAX_TRIGRAM_SHARE = 0.3
"""Share of all trigrams that the commonest one may have."""

MIN_LETTERS = 0.5
"""Share of the visible characters that must be letters or digits of some script."""

MAX_STRANGE = 0.5
"""Share of strangely built words above which a text is glued from fragments."""

_MAX_WORD = 30
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{6,}", re.IGNORECASE)
_MIXED_CASE = re.compile(r"[a-z][A-Z][a-z]+[A-Z]")
_INNER_SYMBOL = re.compile(r"\w[^\w\s'\-./:,@%&+\u2019]\w")


def incoherence(text: str) -> str | None:
    """Why the text is not coherent, None when it is."""
    visible = [char for char in text if not char.isspace()]
    if not visible:
        return "empty"
    if "\ufffd" in text:
        return "broken characters"
    words = re.findall(r"\S*\w\S*", text)
    if not words:
        return "no words"
    if sum(char.isalnum() for char in visible) < MIN_LETTERS * len(visible):
        return "mostly symbols"
    return _repetition([word.lower() for word in words]) or _strange_words(words)


def _repetition(words: list[str]) -> str | None:
    run = longest = 1
    for left, right in pairwise(words):
        run = run + 1 if left == right else 1
        longest = max(longest, run)
    if longest >= MAX_RUN:
        return f"the same word {longest} times in a row"
    if len(words) < LOOP_WORDS:
        return None
    if len(set(words)) < MIN_DISTINCT * len(words):
        return "few distinct words"
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    commonest = trigrams.most_common(1)[0][1]
    if commonest >= 3 and commonest > MAX_TRIGRAM_SHARE * trigrams.total():
        return "the same phrase over and over"
    return None


def _strange_words(words: list[str]) -> str | None:
    strange = sum(
        len(word) > _MAX_WORD
        or any(pattern.search(word) for pattern in (_CONSONANTS, _MIXED_CASE, _INNER_SYMBOL))
        for word in words
    )
    return "strangely built words" if strange > MAX_STRANGE * len(words) else None


def coherent(sample: Sample) -> Ruling:
    """True when no test finds the answer broken; else what is wrong with it is the reason."""
    reason = incoherence(sample.response)
    return Ruling(reason is None, reason=reason or "")
