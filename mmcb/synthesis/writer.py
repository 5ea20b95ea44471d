"""The writer at work: ask, read, check, ask again with a new seed, at last drop with the reasons.

What is accepted or dropped is on disk before the next batch. What was refused on the way stands in
the provenance of the record (`rejected`), so the counts survive a kill as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import ProgressBar
from mmcb.records import Example, Message, Provenance
from mmcb.store import RecordWriter, record_id
from mmcb.synthesis.categories import Category
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.dropped import Dropped, dropped_job
from mmcb.synthesis.few_shot import Shot
from mmcb.synthesis.filters import Grounds, PairFilters, Reason
from mmcb.synthesis.parsing import PAIR_SCHEMA, Pair, parse_pair
from mmcb.synthesis.plan import Job
from mmcb.synthesis.templates import Prompt, PromptKind

PROMPT_OF_TASK: dict[str, PromptKind] = {
    "harmful": "harmful",
    "benign_howto": "benign",
    "question": "question",
}
NOTICE = "harmful on purpose: for training and testing defences, not to be published"
"""Stands in the provenance of every record that holds a harmful query."""

HarmJudge = Callable[[Sequence[Pair]], Sequence[bool | None]]
"""Whether each completion does the harm that its query asks for; None where it cannot say."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What the writer's stages share."""

    config: SynthesisConfig
    writer: Callable[[], TextGenerator]
    """Loads the writer when it is first wanted."""
    prompts: Mapping[PromptKind, Prompt]
    shots: Sequence[Shot]
    """Pairs shown before each request."""
    filters: PairFilters
    judge: HarmJudge | None = None


@dataclass(slots=True)
class Desk:
    """The workshop, and the files that one stage writes to."""

    workshop: Workshop
    examples: RecordWriter
    dropped: RecordWriter
    rejected: dict[str, list[Reason]] = field(default_factory=dict)
    """Reasons so far, by job."""

    @property
    def config(self) -> SynthesisConfig:
        """The run's settings."""
        return self.workshop.config


class _Answer(NamedTuple):
    """What the writer made of a job."""

    job: Job
    text: str
    pair: Pair | None
    reason: Reason | None
    """Why it cannot be used."""


def write_examples(jobs: Sequence[Job], desk: Desk, bar: ProgressBar) -> None:
    """Have an example written for every job, or drop it after the stated number of retries."""
    pending = list(jobs)
    for attempt in range(desk.config.max_retries + 1):
        if not pending:
            return
        pending = _attempt(pending, attempt, desk, bar)


def attempt_seed(seed: int, attempt: int) -> int:
    """The sampling seed of an attempt; the request's id makes it another one for each record."""
    return int(record_id("attempt", seed, attempt), 16) % 2**31


def _attempt(jobs: Sequence[Job], attempt: int, desk: Desk, bar: ProgressBar) -> list[Job]:
    """Ask once for each job; returns those to ask for again."""
    by_id = {job.id: job for job in jobs}
    requests = [
        Request(id=job.id, messages=_messages(job, desk.workshop), json_schema=PAIR_SCHEMA)
        for job in jobs
    ]
    sampling = Sampling(
        max_new_tokens=desk.config.max_new_tokens,
        temperature=desk.config.temperature,
        top_p=desk.config.top_p,
        seed=attempt_seed(desk.config.seed, attempt),
        batch_size=desk.config.batch_size,
    )
    again: list[Job] = []
    for batch in desk.workshop.writer().generate(requests, sampling):
        examples: list[Example] = []
        dropped: list[Dropped] = []
        for job, text, pair, reason in _read(batch, by_id, desk.workshop):
            if pair is not None and reason is None:
                examples.append(_example(job, pair, attempt, sampling, desk))
                continue
            reasons = desk.rejected.setdefault(job.id, [])
            reasons.append(reason or "unparsable")
            if attempt < desk.config.max_retries:
                again.append(job)
            else:
                dropped.append(dropped_job(job, reasons, text))
        desk.examples.write(examples)
        desk.dropped.write(dropped)
        bar.advance(len(examples) + len(dropped), again=len(again))
    return again


def _messages(job: Job, workshop: Workshop) -> tuple[Message, ...]:
    """The request, after the examples of its task as earlier turns."""
    prompt = workshop.prompts[PROMPT_OF_TASK[job.task]]
    messages: list[Message] = []
    for shot in workshop.shots:
        if shot.task == job.task:
            messages.append(_request(prompt, shot.caption, shot.category))
            messages.append(Message(role="assistant", content=shot.answer))
    return (*messages, _request(prompt, job.caption.text, job.category))


def _request(prompt: Prompt, caption: str, category: Category | None) -> Message:
    variables = {"caption": caption}
    if category is not None:
        variables["category"] = category.name
        variables["description"] = category.description
    return Message(role="user", content=prompt.render(**variables))


def _read(
    batch: Sequence[Completion], jobs: Mapping[str, Job], workshop: Workshop
) -> list[_Answer]:
    """The pairs in a batch of answers, each with its fault; the judge sees those without one."""
    answers = [_read_one(jobs[completion.id], completion, workshop) for completion in batch]
    judged = [a for a in answers if a.reason is None and a.pair and a.job.task == "harmful"]
    if workshop.judge is None or not judged:
        return answers
    labels = workshop.judge([answer.pair for answer in judged if answer.pair])
    # None: the judge cannot say. What is not known to be harmless stays.
    harmless = {a.job.id for a, label in zip(judged, labels, strict=True) if label is False}
    return [a._replace(reason="harmless") if a.job.id in harmless else a for a in answers]


def _read_one(job: Job, completion: Completion, workshop: Workshop) -> _Answer:
    if completion.finish_reason == "error":
        return _Answer(job, completion.text, None, "failed")
    pair = parse_pair(completion.text)
    reason = workshop.filters.fault(
        pair, answer=completion.text, caption=job.caption.text, grounds=_grounds(job)
    )
    return _Answer(job, completion.text, pair, reason)


def _grounds(job: Job) -> Grounds:
    if job.task == "question":
        return "nothing"  # "is there a bus ?" - "no ." names nothing that is there
    # A harmful query names a thing of the picture by itself, and so must whatever stands without
    # the picture; a benign one may point at it ("the thing on the left").
    return "query" if job.task == "harmful" or not job.with_image else "pair"


def _example(job: Job, pair: Pair, attempt: int, sampling: Sampling, desk: Desk) -> Example:
    prompt = desk.workshop.prompts[PROMPT_OF_TASK[job.task]]
    writer = desk.workshop.writer()
    return Example(
        id=job.id,
        kind="circuit_breaker" if job.task == "harmful" else "retain",
        task=job.task,
        category=None if job.category is None else job.category.name,
        split=job.split,
        image=job.caption.image if job.with_image else None,
        messages=(
            Message(role="user", content=pair.query),
            Message(role="assistant", content=pair.completion),
        ),
        provenance=Provenance(
            generator=writer.name,
            revision=writer.revision,
            template=prompt.name,
            template_hash=prompt.hash,
            seed=sampling.seed,
            source_id=job.caption.id,
            settings={
                "attempt": attempt,
                "rejected": " ".join(desk.rejected.get(job.id, [])),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_new_tokens": sampling.max_new_tokens,
                "engine": desk.config.engine.name,
                **({} if job.category is None else {"notice": NOTICE}),
            },
        ),
    )
