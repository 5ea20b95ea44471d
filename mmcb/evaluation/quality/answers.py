"""Questions -> attempts -> generations.jsonl, turn by turn: the second sees the first answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmcb.evaluation.generate import GeneratorFactory, generate_missing, make_plan
from mmcb.evaluation.quality.questions import Question
from mmcb.generation.protocol import Sampling
from mmcb.records import Attempt, Generation, Message
from mmcb.store import read_records, record_id, relative_image, replace_records


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one turn of a question, and the conversation before it."""

    question: Question
    role: str
    turn: int
    """From 0."""
    earlier: tuple[str, ...]
    """Its answers to the turns before."""
    generation: Generation

    @property
    def failed(self) -> bool:
        """No answer was made: the picture cannot be read, the prompt is too long."""
        return self.generation.finish_reason == "error"

    @property
    def turns(self) -> list[dict[str, str]]:
        """The conversation up to this answer, as the judge's template takes it."""
        answers = (*self.earlier, self.generation.text)
        asked = self.question.turns[: self.turn + 1]
        return [{"question": q, "answer": a} for q, a in zip(asked, answers, strict=True)]


def answer_all(
    questions: Sequence[Question],
    *,
    weights: Mapping[str, str],
    sampling: Sampling,
    out: Path,
    make_generator: GeneratorFactory,
) -> list[Answer]:
    """Answers of every role to every turn; only what is missing is generated.

    A turn whose predecessor got no answer is not asked.

    Args:
        questions: what to ask.
        weights: fingerprint of each role that is asked.
        sampling: how text is drawn.
        out: folder of attempts.jsonl and generations.jsonl.
        make_generator: loads the model of a role, if it has work.
    """
    attempts: list[Attempt] = []
    answers: list[Answer] = []
    for role in weights:
        # One load a role: its second turn waits for its first.
        load = cache(make_generator)
        before: dict[str, tuple[str, ...]] = {question.id: () for question in questions}
        for turn in range(max(len(question.turns) for question in questions)):
            asked = [q for q in questions if turn < len(q.turns) and len(before[q.id]) == turn]
            made = [_attempt(question, role, turn, before[question.id], out) for question in asked]
            attempts += made
            replace_records(out / "attempts.jsonl", attempts)
            plan = make_plan(
                made,
                attempts_path=out / "attempts.jsonl",
                fingerprints={role: weights[role]},
                sampling=sampling,
            )
            path = out / "generations.jsonl"
            generate_missing(plan, generations_path=path, make_generator=load)
            found = {g.id: g for g in read_records(path, Generation)}
            for question, attempt in zip(asked, made, strict=True):
                earlier = before[question.id]
                answer = Answer(question, role, turn, earlier, found[plan.ids[attempt.id]])
                answers.append(answer)
                if not answer.failed:
                    before[question.id] = (*earlier, answer.generation.text)
    return answers


def _attempt(
    question: Question, role: str, turn: int, earlier: tuple[str, ...], out: Path
) -> Attempt:
    history: list[Message] = []
    for asked, answer in zip(question.turns, earlier, strict=False):
        history += [Message(role="user", content=asked), Message(role="assistant", content=answer)]
    image = question.image
    return Attempt(
        id=record_id("quality", question.id, role, turn),
        behavior_id=question.id,
        attack="task",
        model=role,
        split="heldout",
        category=question.category,
        prompt=question.turns[turn],
        image=None if image is None else relative_image(out / "attempts.jsonl", image),
        history=tuple(history),
    )
