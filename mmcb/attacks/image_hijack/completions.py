"""Long targets: each behavior's target, continued by the base model itself.

A breaker may trip after the first words, so an attack on these words alone says little. The base
model, made to begin with the target (a prefill), writes the rest of its own answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmcb.attacks.image_hijack.subjects import Subject
from mmcb.generation.protocol import Request, Sampling
from mmcb.generation.transformers_engine import TransformersGenerator
from mmcb.log import get_logger
from mmcb.models.loading import LoadedModel
from mmcb.records import Behavior, Message
from mmcb.store import RecordWriter, read_records

_log = get_logger(__name__)


def complete_targets(
    subjects: Sequence[Subject], *, loaded: LoadedModel, path: Path, max_new_tokens: int
) -> list[Subject]:
    """The subjects with their targets continued, greedily, on their clean pictures.

    Args:
        subjects: behaviors with their pictures.
        loaded: the model; its adapter is switched off here.
        path: JSONL of the behaviors with their long targets. What is there is not made again.
        max_new_tokens: how many tokens the base model may add.
    """
    known = {one.id: one for one in read_records(path, Behavior)} if path.exists() else {}
    missing = [subject for subject in subjects if subject.behavior.id not in known]
    if missing:
        _log.info("continuing %d targets with the base model", len(missing))
        texts = _continue(missing, loaded, max_new_tokens)
        with RecordWriter(path, Behavior) as writer:
            for subject in missing:
                text = texts.get(subject.behavior.id, "")
                target = subject.behavior.target + text
                # The picture is the run's own copy, which lies beside this file.
                image = f"images/clean/{subject.name}"
                update = {"target": target.rstrip(), "image": image}
                known[subject.behavior.id] = subject.behavior.model_copy(update=update)
                writer.write([known[subject.behavior.id]])
    return [
        replace(
            subject,
            behavior=subject.behavior.model_copy(
                update={"target": known[subject.behavior.id].target}
            ),
        )
        for subject in subjects
    ]


def _continue(
    subjects: Sequence[Subject], loaded: LoadedModel, max_new_tokens: int
) -> dict[str, str]:
    requests = [
        Request(
            id=subject.behavior.id,
            messages=(Message(role="user", content=subject.behavior.prompt),),
            image=subject.clean,
            prefill=subject.behavior.target,
        )
        for subject in subjects
    ]
    with loaded.adapter_disabled():
        answers = TransformersGenerator(loaded).generate(
            requests, Sampling(max_new_tokens=max_new_tokens)
        )
        return {one.id: one.text for batch in answers for one in batch}
