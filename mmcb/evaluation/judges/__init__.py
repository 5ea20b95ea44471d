"""Judges: a question, a name, and a rule that answers it for a list of samples.

A judge answers ONE question about an answer: is it the harm that was asked for ("harm"), a
refusal ("refusal"), readable language ("coherence"), right ("correct")? The table below names
where each one lives; its module is imported when it is asked for, so a judge that needs an
eleven-billion-parameter model costs nothing to those who do not use it.

To add a judge: one class with `name` and `rule`, one row in JUDGES and, for a harm judge, one
row in PANELS that says which refusal, coherence and correctness judges speak beside it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from mmcb.errors import MmcbError
from mmcb.records import Task

Question = Literal["harm", "refusal", "coherence", "correct"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a judge sees: request, whole answer (prefill and generation), capability item if any.

    `prompt` is the behavior's own prompt, without the attack's wrapping, so that a judge
    reads the same request whatever the attack did to it.
    """

    prompt: str
    response: str
    task: Task | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """A judge's answer: `label` None when it could not be read."""

    label: bool | None
    score: float | None = None
    reason: str = ""


class Judge(Protocol):
    """Answers its question for each sample, in order."""

    name: str

    def rule(self, samples: Sequence[Sample]) -> list[Ruling]:
        """One ruling a sample."""
        ...


@dataclass(frozen=True, slots=True)
class JudgeRow:
    """One row of the table: the question, "module:class", the modules that the rule rests on.

    A verdict counts only as long as none of these files changes.
    """

    question: Question
    path: str
    rests_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """The judges that speak beside a harm judge, by name."""

    refusal: str
    coherence: str
    correct: str


_HERE = "mmcb.evaluation.judges"
_GRAMMAR = ("mmcb.miniature.grammar", "mmcb.miniature.vocabulary")
_PHRASES = ("mmcb.refusals",)

JUDGES: dict[str, JudgeRow] = {
    "miniature": JudgeRow("harm", f"{_HERE}.miniature:HarmJudge", _GRAMMAR),
    "miniature-refusal": JudgeRow("refusal", f"{_HERE}.miniature:RefusalJudge", _GRAMMAR),
    "miniature-coherence": JudgeRow("coherence", f"{_HERE}.miniature:CoherenceJudge", _GRAMMAR),
    "miniature-correct": JudgeRow("correct", f"{_HERE}.miniature:CorrectJudge", _GRAMMAR),
    "phrase": JudgeRow("harm", f"{_HERE}.phrase:PhraseJudge", _PHRASES),
    "phrase-refusal": JudgeRow("refusal", f"{_HERE}.phrase:PhraseRefusalJudge", _PHRASES),
    "coherence": JudgeRow("coherence", f"{_HERE}.coherence:CoherenceJudge"),
    "references": JudgeRow("correct", f"{_HERE}.references:ReferencesJudge"),
}

PANELS: dict[str, Panel] = {
    "miniature": Panel("miniature-refusal", "miniature-coherence", "miniature-correct"),
    "phrase": Panel("phrase-refusal", "coherence", "references"),
}


def judge_names(question: Question) -> list[str]:
    """The names of the judges that answer a question, in the table's order."""
    return [name for name, row in JUDGES.items() if row.question == question]


def find_judge(name: str, question: Question | None = None) -> JudgeRow:
    """The row of a judge.

    Raises:
        MmcbError: There is none of that name (the hint has the nearest), or it answers another
            question than the one asked for.
    """
    row = JUDGES.get(name)
    if row is not None and (question is None or row.question == question):
        return row
    names = list(JUDGES) if question is None else judge_names(question)
    close = difflib.get_close_matches(name, names, n=1)
    asked = f"no judge is called {name!r}" if row is None else f"{name!r} judges {row.question}"
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise MmcbError(asked, hint=f"{guess}judges: {', '.join(names)}")


def load_judge(name: str) -> Judge:
    """Import and make a judge by its name."""
    module, _, attribute = find_judge(name).path.partition(":")
    judge: Judge = getattr(importlib.import_module(module), attribute)()
    return judge


def judge_version(name: str) -> str:
    """Twelve hex digits of the source that a judge rules by.

    Part of every verdict's id, so that a judge whose rule was changed is asked again.
    """
    row = find_judge(name)
    digest = hashlib.sha256(name.encode())
    for module in (row.path.partition(":")[0], *row.rests_on):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()[:12]


def panel_of(harm_judge: str) -> Panel:
    """Which judges speak beside a harm judge; the model-free ones for a judge without a row."""
    find_judge(harm_judge, "harm")
    return PANELS.get(harm_judge, PANELS["phrase"])
