"""The retain set: what the defended model must keep doing, and keep refusing.

Benign how-to twins and questions by the writer, captions as they are, instructions of the user's,
and the target model's own refusals of the harmful queries.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mmcb.curation.overlap import Decontamination
from mmcb.errors import MmcbError
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import progress
from mmcb.record_index import RecordIndex
from mmcb.records import Caption, Example, Message, Provenance
from mmcb.refusals import is_refusal
from mmcb.store import (
    RecordWriter,
    batches,
    read_records,
    record_id,
    relative_image,
    resolve_image,
)
from mmcb.synthesis.config import SynthesisConfig
from mmcb.synthesis.dropped import MAX_KEPT_TEXT, Dropped
from mmcb.synthesis.files import SetFiles
from mmcb.synthesis.filters import Reason
from mmcb.synthesis.plan import benign_jobs, caption_choices, question_jobs, share, split_of
from mmcb.synthesis.stage import ROUND, WriterStage
from mmcb.synthesis.writer import NOTICE

HUMAN_CAPTION_PROMPT = "Describe this image in one sentence."
"""The prompt of caption examples that people wrote; a model's own keep the prompt it had."""


def retain_stages(captions: Iterable[Caption], files: SetFiles) -> list[WriterStage]:
    """The stages in which the writer fills retain.jsonl."""
    config = files.config
    return [
        WriterStage(
            "benign twins", files.retain, files, partial(benign_jobs, captions, config),
            distinct=True,
        ),
        WriterStage("questions", files.retain, files, partial(question_jobs, captions, config)),
    ]  # fmt: skip


def add_captions(
    captions: Iterable[Caption], files: SetFiles, decontamination: Decontamination
) -> None:
    """Write the caption examples: image -> caption.

    One cut at its length limit is dropped, and one whose text is too like an evaluation prompt.
    """
    done = files.done(files.retain)
    chosen = caption_choices(captions, files.config)
    _add(
        files,
        (
            _caption_example(id_, caption, files.config, decontamination)
            for id_, caption in chosen
            if id_ not in done
        ),
    )


def read_instructions(config: SynthesisConfig) -> Iterator[Example]:
    """The user's retain examples, if there are any.

    Raises:
        MmcbError: The file is missing or holds something else.
    """
    path = config.instructions_file
    for example in () if path is None else read_records(path, Example):
        if example.kind != "retain":
            raise MmcbError(
                f"{path}: {example.id} is a {example.kind} example",
                hint="--instructions takes records of kind retain",
            )
        yield example


def add_instructions(files: SetFiles, decontamination: Decontamination) -> None:
    """Copy the user's retain examples, ids and splits kept.

    One whose request is too like an evaluation prompt is dropped.
    """
    done = files.done(files.retain)
    given = (_instruction(e, files) for e in read_instructions(files.config) if e.id not in done)
    _add(files, (_overlapping(e) if _is_measured(e, decontamination) else e for e in given))


class RefusalStage:
    """Harmful queries put to the target model; its refusals are kept, with and without image.

    Args:
        files: The folder; queries are read from its circuit-breaker set.
        sees: Whether the target model takes images; those of text-only queries are the captions'.
    """

    def __init__(self, files: SetFiles, *, sees: bool) -> None:
        self.files = files
        self._captions = RecordIndex(files.captions, Caption) if sees else None

    def asked(self) -> Iterator[Example]:
        """The example each refusal would become, still with the harmful completion."""
        config = self.files.config
        for query in read_records(self.files.circuit_breaker, Example):
            id_ = record_id("refusal", query.id)
            if share(config.seed, "chosen", id_) < config.refusal_fraction:
                image = self._image(id_, query)
                update = {"id": id_, "kind": "retain", "task": "refusal", "image": image}
                yield query.model_copy(update=update)

    def pending(self) -> Iterator[Example]:
        """What was neither kept nor dropped when this was begun."""
        done = self.files.done(self.files.retain)
        return (example for example in self.asked() if example.id not in done)

    def run(self, target: TextGenerator) -> None:
        """Ask the target model, greedily and once: its answer is what it is."""
        total, left = (sum(1 for _ in examples) for examples in (self.asked(), self.pending()))
        with (
            RecordWriter(self.files.retain, Example) as kept,
            RecordWriter(self.files.dropped, Dropped) as dropped,
            progress(total, "refusals", total - left) as bar,
        ):
            for part in batches(self.pending(), ROUND):
                for answered in self._answers(part, target):
                    kept.write(record for record in answered if isinstance(record, Example))
                    dropped.write(record for record in answered if isinstance(record, Dropped))
                    bar.advance(len(answered))

    def _answers(
        self, asked: Sequence[Example], target: TextGenerator
    ) -> Iterator[list[Example | Dropped]]:
        config, by_id = self.files.config, {example.id: example for example in asked}
        sampling = Sampling(
            max_new_tokens=config.refusal_max_new_tokens, batch_size=config.batch_size
        )
        requests = [
            Request(id=e.id, messages=e.prompt_messages, image=self._path(e)) for e in asked
        ]
        for batch in target.generate(requests, sampling):
            yield [
                _answered(by_id[completion.id], completion, target, config) for completion in batch
            ]

    def _image(self, id_: str, query: Example) -> str | None:
        # Drawn anew: a query that is broken as text is also to be refused beside its picture.
        config = self.files.config
        if self._captions is None or share(config.seed, "image", id_) < config.text_fraction:
            return None
        caption = self._captions.get(str(query.provenance.source_id))
        return query.image or (None if caption is None else caption.image)

    def _path(self, example: Example) -> Path | None:
        return None if example.image is None else resolve_image(self.files.retain, example.image)


def _fault(completion: Completion) -> Reason | None:
    if completion.finish_reason == "error":
        return "failed"
    if not is_refusal(completion.text):
        return "complied"
    return "cut" if completion.finish_reason == "length" else None


def _answered(
    asked: Example, completion: Completion, target: TextGenerator, config: SynthesisConfig
) -> Example | Dropped:
    reason = _fault(completion)
    if reason is not None:
        return Dropped(
            id=asked.id,
            task="refusal",
            category=asked.category,
            split=asked.split,
            image=asked.image,
            source_id=str(asked.provenance.source_id),
            reasons=(reason,),
            text=completion.text[:MAX_KEPT_TEXT],
        )
    provenance = Provenance(
        generator=target.name,
        revision=target.revision,
        seed=0,
        source_id=asked.provenance.source_id,
        settings={
            "temperature": 0.0,
            "max_new_tokens": config.refusal_max_new_tokens,
            "notice": NOTICE,
            "engine": config.engine.name,
        },
    )
    query = asked.prompt_messages[-1].content
    messages = _turns(query, completion.text.strip())
    return asked.model_copy(update={"messages": messages, "provenance": provenance})


def _caption_example(
    id_: str, caption: Caption, config: SynthesisConfig, decontamination: Decontamination
) -> Example | Dropped:
    split = split_of(caption, config)
    reason: Reason | None = None
    if caption.provenance.settings.get("finish_reason") == "length":
        reason = "cut"
    elif decontamination.overlap(caption.text):
        reason = "overlap"
    if reason is not None:
        return Dropped(
            id=id_,
            task="caption",
            split=split,
            image=caption.image,
            source_id=caption.id,
            reasons=(reason,),
            text=caption.text[:MAX_KEPT_TEXT],
        )
    prompt = str(caption.provenance.settings.get("prompt", HUMAN_CAPTION_PROMPT))
    return Example(
        id=id_,
        kind="retain",
        task="caption",
        split=split,
        image=caption.image,
        messages=_turns(prompt, caption.text),
        provenance=caption.provenance.model_copy(update={"source_id": caption.id}),
    )


def _instruction(example: Example, files: SetFiles) -> Example:
    """A record of the user's file, as it is to stand in retain.jsonl."""
    path = files.config.instructions_file
    if path is None or example.image is None:
        return example
    image = relative_image(files.retain, resolve_image(path, example.image))
    return example.model_copy(update={"image": image})


def _is_measured(example: Example, decontamination: Decontamination) -> bool:
    return any(decontamination.overlap(m.content) for m in example.messages if m.role == "user")


def _turns(prompt: str, response: str) -> tuple[Message, Message]:
    return Message(role="user", content=prompt), Message(role="assistant", content=response)


def _overlapping(example: Example) -> Dropped:
    return Dropped(
        id=example.id,
        task="instruction",
        split=example.split,
        image=example.image,
        source_id=example.provenance.source_id or example.id,
        reasons=("overlap",),
        text=example.prompt_messages[-1].content[:MAX_KEPT_TEXT],
    )


def _add(files: SetFiles, records: Iterable[Example | Dropped]) -> None:
    with (
        RecordWriter(files.retain, Example) as kept,
        RecordWriter(files.dropped, Dropped) as dropped,
    ):
        for part in batches(records, ROUND):
            kept.write(record for record in part if isinstance(record, Example))
            dropped.write(record for record in part if isinstance(record, Dropped))
