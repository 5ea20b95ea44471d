"""Attempts -> generations.jsonl, writing as it goes and resuming where it stopped.

The id of a generation is made from everything that decides the answer: the attempt, the bytes
of its image, the weights, the adapter and the decoding. So a rerun after a new training makes
the defended model's answers anew and keeps the base model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmcb.config import Config
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import get_logger, progress
from mmcb.records import Attempt, Generation, Message, Provenance
from mmcb.store import RecordWriter, existing_ids, file_hash, record_id, resolve_image

GeneratorFactory = Callable[[str], TextGenerator]
"""Makes the generator of a role ("base" or "defended"); called only if the role has work."""

_log = get_logger(__name__)


def sampling_of(config: Config) -> Sampling:
    """The decoding of a command whose settings have `Sampling`'s fields among their own."""
    return Sampling.model_validate(config.model_dump(include=set(Sampling.model_fields)))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be answered, by which weights, how.

    `fingerprints` names the weights of each role; `ids` maps an attempt's id to the id of the
    generation that answers it.
    """

    attempts: Sequence[Attempt]
    attempts_path: Path
    fingerprints: Mapping[str, str]
    sampling: Sampling
    ids: Mapping[str, str] = field(default_factory=dict)


def make_plan(
    attempts: Sequence[Attempt],
    *,
    attempts_path: Path,
    fingerprints: Mapping[str, str],
    sampling: Sampling,
) -> Plan:
    """A plan with the id of every generation it wants."""
    hashes: dict[str, str] = {}
    ids: dict[str, str] = {}
    # The batch size is left out: it must not change an answer.
    decoding = sampling.model_dump_json(exclude={"batch_size"})
    for attempt in attempts:
        image = attempt.image or ""
        if image and image not in hashes:
            path = resolve_image(attempts_path, image)
            hashes[image] = file_hash(path) if path.is_file() else "missing"
        weights = fingerprints[attempt.model]
        ids[attempt.id] = record_id(
            "generation",
            attempt.id,
            attempt.prompt,
            attempt.prefill,
            hashes.get(image, ""),
            weights,
            decoding,
            *_more(attempt, attempts_path),
        )
    return Plan(attempts, attempts_path, fingerprints, sampling, ids)


def generate_missing(
    plan: Plan, *, generations_path: Path, make_generator: GeneratorFactory
) -> int:
    """Answer every attempt that has no answer yet; the number answered now.

    A model is loaded only if it has work, and one at a time. Killed at any moment, at most one
    batch is lost, and the same call goes on.
    """
    with RecordWriter(generations_path):
        pass  # cuts off a line that a kill tore: whoever reads the answers finds whole lines
    done = existing_ids(generations_path)
    total = 0
    for role in plan.fingerprints:
        pending = [
            attempt
            for attempt in plan.attempts
            if attempt.model == role and plan.ids[attempt.id] not in done
        ]
        if not pending:
            continue
        _log.info("%s model: %d answers to generate", role, len(pending))
        _generate_role(plan, pending, make_generator(role), role, generations_path)
        total += len(pending)
    return total


def _generate_role(
    plan: Plan,
    pending: Sequence[Attempt],
    generator: TextGenerator,
    role: str,
    generations_path: Path,
) -> None:
    by_id = {attempt.id: attempt for attempt in pending}
    requests = [request_of(attempt, plan.attempts_path) for attempt in pending]
    with (
        RecordWriter(generations_path, Generation) as writer,
        progress(len(pending), f"generating, {role} model") as bar,
    ):
        for completions in generator.generate(requests, plan.sampling):
            records = [
                _generation(plan, by_id[completion.id], completion, generator)
                for completion in completions
            ]
            writer.write(records)
            bar.advance(len(records))


def request_of(attempt: Attempt, attempts_path: Path) -> Request:
    """The request that puts an attempt to a model; its files are relative to `attempts_path`."""
    image = None if attempt.image is None else resolve_image(attempts_path, attempt.image)
    message = Message(role="user", content=attempt.prompt)
    return Request(
        id=attempt.id,
        messages=(*attempt.history, message),
        image=image,
        prefill=attempt.prefill,
        embeddings=_file(attempt.embeddings, attempts_path),
        steering=_file(attempt.steering, attempts_path),
    )


def _file(name: str | None, attempts_path: Path) -> Path | None:
    return None if name is None else resolve_image(attempts_path, name)


def _more(attempt: Attempt, attempts_path: Path) -> Iterator[str]:
    """What else decides an answer; nothing for attempts without it, whose ids stay as they were."""
    if attempt.history:
        yield "history"
        for message in attempt.history:
            yield from (message.role, message.content)
    for kind in ("embeddings", "steering"):
        path = _file(getattr(attempt, kind), attempts_path)
        if path is not None:
            yield kind
            yield file_hash(path) if path.is_file() else "missing"


def _generation(
    plan: Plan, attempt: Attempt, completion: Completion, generator: TextGenerator
) -> Generation:
    sampling = plan.sampling
    settings: dict[str, str | int | float | bool] = {
        "weights": plan.fingerprints[attempt.model],
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    return Generation(
        id=plan.ids[attempt.id],
        attempt_id=attempt.id,
        model=attempt.model,
        text=completion.text,
        finish_reason=completion.finish_reason,
        num_tokens=completion.num_tokens,
        provenance=Provenance(
            generator=generator.name,
            revision=generator.revision,
            seed=sampling.seed,
            source_id=attempt.behavior_id,
            settings=settings,
        ),
    )
