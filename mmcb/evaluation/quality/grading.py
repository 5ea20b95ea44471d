"""Answers -> grades.jsonl: a judge model reads each answer and says how good it is, from 1 to 10.

What it says is kept with the grade. A judgement that cannot be read is counted, and in no mean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Template, TemplateError

from mmcb.errors import MmcbError
from mmcb.evaluation.judges.prompted import read_template
from mmcb.evaluation.judges.specification import PROMPTS
from mmcb.evaluation.quality.answers import Answer
from mmcb.evaluation.quality.config import QualityBenchmark
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import progress
from mmcb.records import Message, Record
from mmcb.store import RecordWriter, existing_ids, read_records, record_id

LOWEST, HIGHEST = 1.0, 10.0


class Grade(Record):
    """What the judge gave an answer."""

    generation_id: str
    judge: str
    score: float | None
    """From 1 to 10; None where the judgement cannot be read, or was not given."""
    reference_score: float | None = None
    """What the reference got beside it, where the benchmark compares."""
    text: str
    """The judgement in full."""


Scores = tuple[float, float | None]
"""The answer's score, and the reference's."""


def rating(text: str) -> Scores | None:
    """`[[7]]`, else `[7]`, the first in the text, as FastChat reads it; None without one."""
    match = re.search(r"\[\[(\d+\.?\d*)\]\]", text) or re.search(r"\[(\d+\.?\d*)\]", text)
    return None if match is None else _in_range(float(match[1]), None)


def score_pair(text: str) -> Scores | None:
    """Two numbers, alone on the first line: the reference's score, then the answer's.

    Source: `parse_score` in LLaVA's eval_gpt_review_visual.py. None for anything else.
    """
    first = text.strip().split("\n")[0]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*[\s,]\s*(\d+(?:\.\d+)?)", first.strip())
    return None if match is None else _in_range(float(match[2]), float(match[1]))


def _in_range(score: float, reference: float | None) -> Scores | None:
    known = [score] if reference is None else [score, reference]
    return (score, reference) if all(LOWEST <= x <= HIGHEST for x in known) else None


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a benchmark is judged."""

    template: str
    """File in judges/prompts."""
    parse: Callable[[str], Scores | None]


PROTOCOLS: Mapping[QualityBenchmark, Protocol] = {
    "mt-bench": Protocol("mt_bench.j2", rating),
    "llava-bench": Protocol("llava_bench.j2", score_pair),
}


class Grader:
    """A judge with its prompt.

    Args:
        benchmark: whose prompt and parser count.
        judge: the model's name.
        template: another prompt than the benchmark's.
        max_new_tokens: longest judgement.

    Raises:
        MmcbError: the template is not there or not jinja2.
    """

    def __init__(
        self,
        benchmark: QualityBenchmark,
        *,
        judge: str,
        template: Path | None,
        max_new_tokens: int,
    ) -> None:
        self._parse = PROTOCOLS[benchmark].parse
        self._judge = judge
        self._path = template or PROMPTS / PROTOCOLS[benchmark].template
        self._template: Template = read_template(self._path)
        self._sampling = Sampling(max_new_tokens=max_new_tokens)
        self.template_hash = hashlib.sha256(self._path.read_bytes()).hexdigest()[:12]

    def grade_missing(
        self, answers: Sequence[Answer], *, path: Path, make_judge: Callable[[], TextGenerator]
    ) -> dict[str, Grade]:
        """The grade of every answer by its generation's id; only what is missing is asked.

        Raises:
            MmcbError: the judge cannot be had, or the template fails.
        """
        done = existing_ids(path)
        wanted = {self._id(answer): answer for answer in answers if not answer.failed}
        requests = [
            Request(id=name, messages=(Message(role="user", content=self._prompt(answer)),))
            for name, answer in wanted.items()
            if name not in done
        ]
        if requests:
            judge = make_judge()
            with RecordWriter(path, Grade) as writer, progress(len(requests), "grading") as bar:
                for batch in judge.generate(requests, self._sampling):
                    writer.write(self._grade(wanted[c.id], c) for c in batch)
                    bar.advance(len(batch))
        kept = read_records(path, Grade) if path.is_file() else ()
        return {grade.generation_id: grade for grade in kept if grade.id in wanted}

    def _id(self, answer: Answer) -> str:
        """Everything that decides a grade; references and contexts stand in the prompt."""
        prompt = hashlib.sha256(self._prompt(answer).encode()).hexdigest()
        limit = self._sampling.max_new_tokens
        return record_id("grade", answer.generation.id, self._judge, prompt, limit)

    def _prompt(self, answer: Answer) -> str:
        question = answer.question
        try:
            return self._template.render(
                turns=answer.turns,
                references=question.references,
                context=question.context,
                boxes=question.boxes,
            )
        except TemplateError as error:
            raise MmcbError(
                f"the judge's prompt {self._path}: {error}",
                hint="it may use turns, references, context and boxes",
            ) from None

    def _grade(self, answer: Answer, completion: Completion) -> Grade:
        scores = None if completion.finish_reason == "error" else self._parse(completion.text)
        return Grade(
            id=completion.id,
            generation_id=answer.generation.id,
            judge=self._judge,
            score=None if scores is None else scores[0],
            reference_score=None if scores is None else scores[1],
            text=completion.text,
        )
