"""The retain set: what the defended model must keep doing, and keep refusing.

Benign how-to twins and questions by the writer, captions as they are, instructions of the user's,
and the target model's own refusals of the harmful queries.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmcb.curation.overlap import Decontamination
from mmcb.errors import MmcbError
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import progress
from mmcb.records import Caption, Example, Message, Provenance
from mmcb.refusals import is_refusal
from mmcb.store import (
    RecordWriter,
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
from mmcb.synthesis.stage import WriterStage
from mmcb.synthesis.writer import NOTICE

HUMAN_CAPTION_PROMPT = "Describe this image in one sentence."
"""The prompt of caption examples that people wrote; a model's own keep the prompt it had."""


def retain_stages(captions: Sequence[Caption], files: SetFiles) -> list[WriterStage]:
    """The stages in which the writer fills retain.jsonl."""
    config = files.config
    return [
        WriterStage(
            "benign twins", files.retain, files, benign_jobs(captions, config), distinct=True
        ),
        WriterStage("questions", files.retain, files, question_jobs(captions, config)),
    ]


def add_captions(
    captions: Sequence[Caption], files: SetFiles, decontamination: Decontamination
) -> None:
    """Write the caption examples: image -> caption.

    One cut at its length limit is dropped, and one whose text is too like an evaluation prompt.
    """
    done = files.done(files.retain)
    examples: list[Example] = []
    dropped: list[Dropped] = []
    for id_, caption in caption_choices(captions, files.config):
        if id_ in done:
            continue
        split = split_of(caption, files.config)
        reason: Reason | None = None
        if caption.provenance.settings.get("finish_reason") == "length":
            reason = "cut"
        elif decontamination.overlap(caption.text):
            reason = "overlap"
        if reason is not None:
            drop = Dropped(
                id=id_,
                task="caption",
                split=split,
                image=caption.image,
                source_id=caption.id,
                reasons=(reason,),
                text=caption.text[:MAX_KEPT_TEXT],
            )
            dropped.append(drop)
            continue
        prompt = str(caption.provenance.settings.get("prompt", HUMAN_CAPTION_PROMPT))
        examples.append(
            Example(
                id=id_,
                kind="retain",
                task="caption",
                split=split,
                image=caption.image,
                messages=_turns(prompt, caption.text),
                provenance=caption.provenance.model_copy(update={"source_id": caption.id}),
            )
        )
    _append(files, examples, dropped)


def add_instructions(files: SetFiles, decontamination: Decontamination) -> None:
    """Copy the user's retain examples, ids and splits kept.

    One whose request is too like an evaluation prompt is dropped.

    Raises:
        MmcbError: The file is missing or holds something else.
    """
    path = files.config.instructions_file
    if path is None:
        return
    done = files.done(files.retain)
    examples: list[Example] = []
    dropped: list[Dropped] = []
    for example in read_records(path, Example):
        if example.kind != "retain":
            raise MmcbError(
                f"{path}: {example.id} is a {example.kind} example",
                hint="--instructions takes records of kind retain",
            )
        if example.image is not None:  # paths are relative to the file they stand in
            image = relative_image(files.retain, resolve_image(path, example.image))
            example = example.model_copy(update={"image": image})
        if example.id in done:
            continue
        if any(decontamination.overlap(m.content) for m in example.messages if m.role == "user"):
            dropped.append(_overlapping(example))
        else:
            examples.append(example)
    _append(files, examples, dropped)


class RefusalStage:
    """Harmful queries put to the target model; its refusals are kept, with and without image.

    Args:
        files: The folder; queries are read from its circuit-breaker set.
        captions: Captions by id: a text-only query has its image there.
        sees: Whether the target model takes images.
    """

    def __init__(self, files: SetFiles, captions: Mapping[str, Caption], *, sees: bool) -> None:
        self.files = files
        self._asked: dict[str, Example] = {}
        """The example each refusal would become, still with the harmful completion."""
        for query in read_records(files.circuit_breaker, Example):
            id_ = record_id("refusal", query.id)
            if share(files.config.seed, "chosen", id_) < files.config.refusal_fraction:
                image = self._image(id_, query, captions) if sees else None
                update = {"id": id_, "kind": "retain", "task": "refusal", "image": image}
                self._asked[id_] = query.model_copy(update=update)

    def pending(self) -> list[Example]:
        """What was neither kept nor dropped yet."""
        done = self.files.done(self.files.retain)
        return [example for id_, example in self._asked.items() if id_ not in done]

    def run(self, target: TextGenerator) -> None:
        """Ask the target model, greedily and once: its answer is what it is."""
        config, pending = self.files.config, self.pending()
        sampling = Sampling(
            max_new_tokens=config.refusal_max_new_tokens, batch_size=config.batch_size
        )
        requests = [
            Request(id=e.id, messages=e.prompt_messages, image=self._path(e)) for e in pending
        ]
        total = len(self._asked)
        with (
            RecordWriter(self.files.retain, Example) as kept,
            RecordWriter(self.files.dropped, Dropped) as dropped,
            progress(total, "refusals", total - len(pending)) as bar,
        ):
            for batch in target.generate(requests, sampling):
                answered = [(c, self._asked[c.id], _fault(c)) for c in batch]
                kept.write(_refusal(e, c, target, config) for c, e, why in answered if why is None)
                dropped.write(_not_kept(e, c, why) for c, e, why in answered if why is not None)
                bar.advance(len(batch))

    def _image(self, id_: str, query: Example, captions: Mapping[str, Caption]) -> str | None:
        # Drawn anew: a query that is broken as text is also to be refused beside its picture.
        config = self.files.config
        if share(config.seed, "image", id_) < config.text_fraction:
            return None
        caption = captions.get(str(query.provenance.source_id))
        return query.image or (None if caption is None else caption.image)

    def _path(self, example: Example) -> Path | None:
        return None if example.image is None else resolve_image(self.files.retain, example.image)


def _fault(completion: Completion) -> Reason | None:
    if completion.finish_reason == "error":
        return "failed"
    if not is_refusal(completion.text):
        return "complied"
    return "cut" if completion.finish_reason == "length" else None


def _refusal(
    asked: Example, completion: Completion, target: TextGenerator, config: SynthesisConfig
) -> Example:
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


def _not_kept(asked: Example, completion: Completion, reason: Reason) -> Dropped:
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


def _append(files: SetFiles, examples: Sequence[Example], dropped: Sequence[Dropped]) -> None:
    with RecordWriter(files.retain, Example) as retain_file:
        retain_file.write(examples)
    with RecordWriter(files.dropped, Dropped) as dropped_file:
        dropped_file.write(dropped)
