"""The writer at work: ask, read, check, ask again with a new seed, at last drop with the reasons.

What is accepted or dropped is on disk before the next batch. What was refused on the way stands in
the provenance of the record (`rejected`), so the counts survive a kill as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import ProgressBar
from mmcb.records import Example, ImagePath, Message, Provenance, Record, Split
from mmcb.store import RecordWriter, record_id
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.filters import Grounds, Reason, fault
from mmcb.synthesis.parsing import Pair, parse_pair
from mmcb.synthesis.plan import Job
from mmcb.synthesis.templates import Prompt, PromptKind

PROMPT_OF_TASK: dict[str, PromptKind] = {
    "harmful": "harmful",
    "benign_howto": "benign",
    "question": "question",
}
MAX_KEPT_TEXT = 4000
"""Characters of an unusable answer that are kept."""


class Dropped(Record):
    """A line of dropped.jsonl: an example that could not be made, and why."""

    task: Literal["harmful", "benign_howto", "question", "caption", "refusal"]
    category: str | None = None
    split: Split
    image: ImagePath | None = None
    source_id: str
    """The caption it was to be made from."""
    reasons: tuple[str, ...]
    """Why each attempt failed, in their order."""
    text: str = ""
    """The last answer, cut to its beginning."""


@dataclass(slots=True)
class Desk:
    """What the writer works with: the files it writes to and the settings it follows."""

    config: SynthesisConfig
    generator: TextGenerator
    prompts: dict[PromptKind, Prompt]
    examples: RecordWriter
    dropped: RecordWriter
    rejected: dict[str, list[Reason]] = field(default_factory=dict)
    """Reasons so far, by job."""


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
    requests = [Request(id=job.id, messages=(_ask(job, desk),)) for job in jobs]
    sampling = Sampling(
        max_new_tokens=desk.config.max_new_tokens,
        temperature=desk.config.temperature,
        top_p=desk.config.top_p,
        seed=attempt_seed(desk.config.seed, attempt),
        batch_size=desk.config.batch_size,
    )
    again: list[Job] = []
    for batch in desk.generator.generate(requests, sampling):
        examples: list[Example] = []
        dropped: list[Dropped] = []
        for completion in batch:
            job = by_id[completion.id]
            pair, reason = _read(job, completion)
            if pair is not None and reason is None:
                examples.append(_example(job, pair, attempt, sampling, desk))
                continue
            reasons = desk.rejected.setdefault(job.id, [])
            reasons.append(reason or "unparsable")
            if attempt < desk.config.max_retries:
                again.append(job)
            else:
                dropped.append(_dropped(job, reasons, completion.text))
        desk.examples.write(examples)
        desk.dropped.write(dropped)
        bar.advance(len(examples) + len(dropped), again=len(again))
    return again


def _ask(job: Job, desk: Desk) -> Message:
    variables = {"caption": job.caption.text}
    if job.category is not None:
        variables["category"] = job.category.name
        variables["description"] = job.category.description
    prompt = desk.prompts[PROMPT_OF_TASK[job.task]]
    return Message(role="user", content=prompt.render(**variables))


def _read(job: Job, completion: Completion) -> tuple[Pair | None, Reason | None]:
    if completion.finish_reason == "error":
        return None, "failed"
    pair = parse_pair(completion.text)
    caption = job.caption.text
    return pair, fault(pair, answer=completion.text, caption=caption, grounds=_grounds(job))


def _grounds(job: Job) -> Grounds:
    if job.task == "question":
        return "nothing"  # "is there a bus ?" - "no ." names nothing that is there
    # A harmful query names a thing of the picture by itself, and so must whatever stands without
    # the picture; a benign one may point at it ("the thing on the left").
    return "query" if job.task == "harmful" or not job.with_image else "pair"


def _example(job: Job, pair: Pair, attempt: int, sampling: Sampling, desk: Desk) -> Example:
    prompt = desk.prompts[PROMPT_OF_TASK[job.task]]
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
            generator=desk.generator.name,
            revision=desk.generator.revision,
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
            },
        ),
    )


def _dropped(job: Job, reasons: Sequence[Reason], text: str) -> Dropped:
    return Dropped(
        id=job.id,
        task=job.task,
        category=None if job.category is None else job.category.name,
        split=job.split,
        image=job.caption.image if job.with_image else None,
        source_id=job.caption.id,
        reasons=tuple(reasons),
        text=text[:MAX_KEPT_TEXT],
    )
