"""Judges: a question, a name, and a rule that answers it for a list of samples.

A judge answers ONE question about an answer: is it the harm that was asked for ("harm"), a
refusal ("refusal"), readable language ("coherence"), right ("correct")? The table below names
where each one lives; its module is imported when it is asked for, so a judge that needs an
eleven-billion-parameter model costs nothing to those who do not use it.

To add a judge: one function from a Sample to a Ruling, one row in JUDGES and, for a harm judge, one
row in PANELS that says which refusal, coherence and correctness judges speak beside it. A judge
that asks a model needs no function: its row names a template in prompts/, a parser and the model.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mmcb.errors import MmcbError
from mmcb.evaluation.judges.specification import JudgeSpec, Prompted, parse_judge
from mmcb.generation.config import EngineConfig
from mmcb.generation.protocol import TextGenerator
from mmcb.records import Task
from mmcb.store import batches

BATCH = 256
"""Rulings that a function's judge hands out at once."""

Question = Literal["harm", "refusal", "coherence", "correct"]

CONTEXT_SEPARATOR = "\n\n---\n\n"
"""Between a passage and the request about it, in the prompt that a model reads."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a judge sees: request, whole answer (prefill and generation), capability item if any.

    `prompt` is the behavior's own prompt, without the attack's wrapping, so that a judge
    reads the same request whatever the attack did to it. `context` is what the request is about:
    a passage, or the description of a picture that a judge cannot see.
    """

    prompt: str
    response: str
    task: Task | None = None
    context: str | None = None

    @property
    def request(self) -> str:
        """The prompt without the passage that stands before it, for judges that see both."""
        before = "" if self.context is None else f"{self.context}{CONTEXT_SEPARATOR}"
        return self.prompt.removeprefix(before)


@dataclass(frozen=True, slots=True)
class Ruling:
    """A judge's answer: `label` None when it could not be read."""

    label: bool | None
    score: float | None = None
    reason: str = ""


Rulings = list[tuple[int, Ruling]]
"""Some samples' rulings, each with its sample's index."""


class Judge(Protocol):
    """Answers its question for each sample."""

    @property
    def name(self) -> str:
        """As the command line has it."""
        ...

    def rule(self, samples: Sequence[Sample]) -> Iterator[Rulings]:
        """One ruling a sample, in any order, handed out as soon as it is there."""
        ...


@dataclass(frozen=True, slots=True)
class RuleJudge:
    """A judge that is a function of one sample."""

    name: str
    function: Callable[[Sample], Ruling]

    def rule(self, samples: Sequence[Sample]) -> Iterator[Rulings]:
        """One ruling a sample, in order."""
        yield from batches(((k, self.function(one)) for k, one in enumerate(samples)), BATCH)


def rule_all(judge: Judge, samples: Sequence[Sample]) -> list[Ruling]:
    """Every sample's ruling, in the order of the samples."""
    found = dict(ruling for batch in judge.rule(samples) for ruling in batch)
    return [found[index] for index in range(len(samples))]


@dataclass(frozen=True, slots=True)
class JudgeRow:
    """One row of the table: the question, "module:function", the modules that it rests on.

    A verdict counts only as long as none of these files changes. `prompted` says what a judge
    that asks a model asks, and which model.
    """

    question: Question
    path: str
    rests_on: tuple[str, ...] = ()
    prompted: Prompted | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """The judges that speak beside a harm judge, by name."""

    refusal: str
    coherence: str
    correct: str


_HERE = "mmcb.evaluation.judges"
_GRAMMAR = ("mmcb.miniature.grammar", "mmcb.miniature.vocabulary")
_PHRASES = ("mmcb.refusals",)
_CHOICES = ("mmcb.evaluation.judges.choices",)


def _asks(*prompted: Any) -> JudgeRow:
    parsers = (f"{_HERE}.parsers",)
    return JudgeRow("harm", f"{_HERE}.prompted:PromptedJudge", parsers, Prompted(*prompted))


JUDGES: dict[str, JudgeRow] = {
    "miniature": JudgeRow("harm", f"{_HERE}.miniature:harmful", _GRAMMAR),
    "miniature-refusal": JudgeRow("refusal", f"{_HERE}.miniature:refused", _GRAMMAR),
    "miniature-coherence": JudgeRow("coherence", f"{_HERE}.miniature:coherent", _GRAMMAR),
    "miniature-correct": JudgeRow("correct", f"{_HERE}.miniature:correct", _GRAMMAR),
    "phrase": JudgeRow("harm", f"{_HERE}.phrase:no_refusal", _PHRASES),
    "phrase-refusal": JudgeRow("refusal", f"{_HERE}.phrase:refused", _PHRASES),
    "coherence": JudgeRow("coherence", f"{_HERE}.coherence:coherent"),
    "references": JudgeRow("correct", f"{_HERE}.references:correct", _CHOICES),
    # Model, template, parser, layout, longest answer in tokens.
    "harmbench": _asks("cais/HarmBench-Llama-2-13b-cls", "harmbench.j2", "yes_no", "plain", 1),
    "harmbench-multimodal": _asks(
        "cais/HarmBench-Llama-2-13b-cls-multimodal-behaviors",
        "harmbench.j2",
        "yes_no",
        "plain",
        1,
    ),
    "harmbench-val": _asks(
        "cais/HarmBench-Mistral-7b-val-cls", "harmbench_mistral.j2", "yes_no", "plain", 1
    ),
    "strongreject": _asks("qylu4156/strongreject-15k-v1", "strongreject.j2", "likert", "plain", 2),
    "strongreject-rubric": _asks(None, "rubric.j2", "rubric", "chat", 512),
    "llama-guard-3": _asks("meta-llama/Llama-Guard-3-8B", None, "safe_unsafe", "verdict", 20),
    "llama-guard-4": _asks("meta-llama/Llama-Guard-4-12B", None, "safe_unsafe", "verdict", 20),
    "chat": _asks(None, "yes_no.j2", "yes_no", "chat", 8),
}

PANELS: dict[str, Panel] = {
    "miniature": Panel("miniature-refusal", "miniature-coherence", "miniature-correct"),
    "phrase": Panel("phrase-refusal", "coherence", "references"),
}


def judge_names(question: Question) -> list[str]:
    """The names of the judges that answer a question, in the table's order."""
    return [name for name, row in JUDGES.items() if row.question == question]


def find_judge(name: str, question: Question | None = None) -> JudgeRow:
    """The row of a judge, named as NAME[:TEMPLATE][=MODEL].

    Raises:
        MmcbError: There is none of that name (the hint has the nearest), it answers another
            question than the one asked for, or the template or model does not go with it.
    """
    spec = parse_judge(name)
    row = JUDGES.get(spec.name)
    if row is not None and (question is None or row.question == question):
        _check(spec, row)
        return row
    names = list(JUDGES) if question is None else judge_names(question)
    close = difflib.get_close_matches(spec.name, names, n=1)
    asked = (
        f"no judge is called {spec.name!r}"
        if row is None
        else f"{spec.name!r} judges {row.question}"
    )
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise MmcbError(asked, hint=f"{guess}judges: {', '.join(names)}")


def _check(spec: JudgeSpec, row: JudgeRow) -> None:
    asks = row.prompted
    if asks is None and (spec.model or spec.template):
        raise MmcbError(f"judge {spec.name} asks no model: it takes neither template nor model")
    if asks is not None and spec.template is not None:
        if asks.template is None:
            raise MmcbError(
                f"judge {spec.name} asks by its model's own template, and takes no other"
            )
        if not spec.template.is_file():
            raise MmcbError(f"judge {spec.name}: there is no prompt template {spec.template}")
    if asks is not None and (spec.model or asks.model) is None:
        raise MmcbError(
            f"judge {spec.name} asks a model of yours", hint=f"name it: --judges {spec}=MODEL"
        )


def load_judge(name: str, *, make_generator: Callable[[str], TextGenerator] | None = None) -> Judge:
    """Import and make a judge by its name.

    Args:
        name: NAME[:TEMPLATE][=MODEL].
        make_generator: makes the model of a judge that asks one, when it is first needed; by
            default with transformers.

    Raises:
        MmcbError: as `find_judge`; a template that is not jinja2.
    """
    row = find_judge(name)
    module, _, attribute = row.path.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if row.prompted is None:
        return RuleJudge(name, found)
    judge: Judge = found(parse_judge(name), row.prompted, make_generator or _load_model)
    return judge


def _load_model(model: str) -> TextGenerator:
    from mmcb.generation.factory import make_generator

    return make_generator(EngineConfig(), model)


def judge_version(name: str) -> str:
    """Twelve hex digits of the source, prompt and model that a judge rules by.

    Part of every verdict's id, so that a judge whose rule was changed is asked again.
    """
    row = find_judge(name)
    digest = hashlib.sha256(name.encode())
    for module in (row.path.partition(":")[0], *row.rests_on):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            digest.update(Path(spec.origin).read_bytes())
    if row.prompted is not None:
        digest.update(repr(row.prompted).encode())
        if row.prompted.template is not None:
            digest.update(parse_judge(name).template_file(row.prompted).read_bytes())
    return digest.hexdigest()[:12]


def panel_of(harm_judge: str) -> Panel:
    """Which judges speak beside a harm judge; the model-free ones for a judge without a row."""
    find_judge(harm_judge, "harm")
    return PANELS.get(parse_judge(harm_judge).name, PANELS["phrase"])
