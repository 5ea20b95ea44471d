"""Correctness by reference answers, model-free.

A short reference must stand in the answer; a long one is compared by the overlap of words. Of a
multiple choice the answer must name the right one, and no other.
"""

from __future__ import annotations

import re
from collections import Counter

from mmcb.evaluation.judges import Ruling, Sample
from mmcb.evaluation.judges.choices import named_choice

MIN_OVERLAP = 0.5
"""Token F1 from which a long answer counts as right. A coarse line: for real captions use a
caption metric; this one only has to tell a caption from something else."""

SHORT_ANSWER_WORDS = 5

_ARTICLES = frozenset({"a", "an", "the"})


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles (as VQA's own scorer drops them)."""
    return [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _ARTICLES]


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the two bags of words, in [0, 1]."""
    left, right = Counter(words(answer)), Counter(words(reference))
    common = (left & right).total()
    if common == 0:
        return 0.0
    precision, recall = common / left.total(), common / right.total()
    return 2 * precision * recall / (precision + recall)


def match(answer: str, reference: str) -> float:
    """1 or 0 for a short reference (its words stand together in the answer), F1 for a long one."""
    wanted = words(reference)
    if len(wanted) > SHORT_ANSWER_WORDS:
        return token_f1(answer, reference)
    given = words(answer)
    starts = range(len(given) - len(wanted) + 1)
    return float(bool(wanted) and any(given[i : i + len(wanted)] == wanted for i in starts))


def correct(sample: Sample) -> Ruling:
    """True when the answer matches one of its item's references, the best match as its score.

    None where nothing is to match.
    """
    if sample.task is None or not sample.task.references:
        return Ruling(None, reason="no reference answer")
    if sample.task.choices:
        named = named_choice(sample.response, sample.task.choices)
        right = named is not None and sample.task.choices[named] in sample.task.references
        return Ruling(right, reason="names no one choice" if named is None else "")
    score = max(match(sample.response, reference) for reference in sample.task.references)
    return Ruling(score >= MIN_OVERLAP, score=score)
