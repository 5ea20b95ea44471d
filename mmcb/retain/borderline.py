"""Borderline prompts answered by the target model: what looks harmful, is not, and is not refused.

A retain set without them teaches the defended model to refuse whatever looks dangerous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmcb.curation.overlap import Decontamination
from mmcb.curation.prompts import read_prompts
from mmcb.errors import MmcbError
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import progress
from mmcb.records import Example, Message, Provenance, Record
from mmcb.refusals import is_refusal
from mmcb.retain.config import RetainConfig
from mmcb.sources.rows import Row
from mmcb.store import RecordWriter, existing_ids, read_records, record_id


class Answered(Record):
    """A line of answers.jsonl: what the target model said to a borderline prompt."""

    prompt: str
    text: str
    finish_reason: str
    source: str
    """Name of the prompt's file."""
    provenance: Provenance

    @property
    def fault(self) -> str | None:
        """Why it is not to be kept, or None."""
        if self.finish_reason == "error":
            return "failed"
        if is_refusal(self.text):
            return "refused"
        if not self.text.strip():
            return "empty"
        return "cut" if self.finish_reason == "length" else None


def answer_borderline(
    config: RetainConfig,
    path: Path,
    decontamination: Decontamination,
    *,
    make: Callable[[str], TextGenerator],
) -> list[Answered]:
    """Have the target answer, greedily and once, what it has not answered yet; all answers so far.

    Args:
        config: The prompts' files and the model.
        path: answers.jsonl, appended to.
        decontamination: Prompts too like an evaluation prompt are not asked.
        make: Loads a model; called only when there is something to ask.

    Raises:
        MmcbError: A file cannot be read, or holds nothing harmless.
    """
    prompts = _prompts(config, decontamination)
    done = existing_ids(path)
    requests = [
        Request(id=id_, messages=(Message(role="user", content=prompt),))
        for id_, (prompt, _) in prompts.items()
        if id_ not in done
    ]
    if requests:
        target = make(config.model)
        sampling = Sampling(max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
        total = len(prompts)
        with (
            RecordWriter(path, Answered) as writer,
            progress(total, "borderline prompts", total - len(requests)) as bar,
        ):
            for batch in target.generate(requests, sampling):
                writer.write(_answered(c, prompts[c.id], target, config) for c in batch)
                bar.advance(len(batch))
    if not path.exists():
        return []
    return [answer for answer in read_records(path, Answered) if answer.id in prompts]


def borderline_examples(answers: Sequence[Answered]) -> list[Example]:
    """The answers that do not refuse, as retain examples."""
    return [
        Example(
            id=answer.id,
            kind="retain",
            task="instruction",
            split="train",
            messages=(
                Message(role="user", content=answer.prompt),
                Message(role="assistant", content=answer.text.strip()),
            ),
            provenance=answer.provenance,
        )
        for answer in answers
        if answer.fault is None
    ]


def is_harmless(row: Row) -> bool:
    """Whether a prompt is said to be safe, or nothing is said: XSTest pairs each with an unsafe."""
    kind = str(row.values.get("type") or "")
    return row.values.get("label") != "unsafe" and not kind.startswith("contrast_")


def _prompts(config: RetainConfig, decontamination: Decontamination) -> dict[str, tuple[str, str]]:
    """(prompt, file) by id, each prompt once."""
    found: dict[str, tuple[str, str]] = {}
    for path in config.borderline:
        before = len(found)
        for prompt in read_prompts(path, keep=is_harmless):
            id_ = record_id("borderline", config.model, prompt)
            if decontamination.overlap(prompt) is None:
                found.setdefault(id_, (prompt, path.name))
        if len(found) == before:
            raise MmcbError(
                f"--borderline {path}: no harmless prompt that is in no evaluation set",
                hint="a set that a model is measured on is none to train on: leave it out",
            )
    return found


def _answered(
    completion: Completion, asked: tuple[str, str], target: TextGenerator, config: RetainConfig
) -> Answered:
    prompt, source = asked
    return Answered(
        id=completion.id,
        prompt=prompt,
        text=completion.text,
        finish_reason=completion.finish_reason,
        source=source,
        provenance=Provenance(
            generator=target.name,
            revision=target.revision,
            source_id=source,
            settings={"temperature": 0.0, "max_new_tokens": config.max_new_tokens},
        ),
    )
