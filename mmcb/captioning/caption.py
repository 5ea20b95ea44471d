"""Captions for the images of a COCO folder, from a model or from COCO's annotators.

`captions.jsonl` is only ever appended to, image by image, so a kill loses at most one batch. Images
that cannot be read, or that had to be converted, are listed in `skipped.jsonl` with the reason.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mmcb.captioning.coco import CocoImage, ImageFile, list_images, read_annotations
from mmcb.captioning.config import CaptioningConfig
from mmcb.captioning.images import look_at
from mmcb.captioning.notes import ImageNote, Notes
from mmcb.errors import MmcbError
from mmcb.generation.config import EngineConfig
from mmcb.generation.factory import check_available, make_generator, named_family
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import ProgressBar, get_logger, progress
from mmcb.records import Caption, Message, Provenance
from mmcb.runs import RunDir
from mmcb.store import (
    RecordWriter,
    existing_ids,
    read_records,
    record_id,
    relative_image,
    resolve_image,
)

MINIATURE = (
    "python -m mmcb.miniature && python -m mmcb.captioning --coco-root data/miniature "
    "--model tiny-llava-next"
)
"""A captioning command that works without COCO and without a download."""

HUMAN = "coco"
"""The generator's name in the provenance of human captions."""

GeneratorMaker = Callable[[str], TextGenerator]
"""Loads the model of this name."""

_NAMES_SHOWN = 10
_log = get_logger(__name__)


class Captioned(NamedTuple):
    """What `caption_images` leaves behind."""

    path: Path
    """captions.jsonl; images in it are relative to its folder."""
    captions: list[Caption]
    """The captions of the images that were asked for, in the order of the images."""
    notes: list[ImageNote]
    """What was skipped or converted, of the images that were asked for."""


def caption_images(
    config: CaptioningConfig, *, make: GeneratorMaker | None = None, missing_hint: str = MINIATURE
) -> Captioned:
    """Caption whatever of the COCO folder has no caption yet.

    Args:
        config: What to caption, and how.
        make: Loads the model; called only if an image needs it.
        missing_hint: What to do when there is no COCO folder.

    Raises:
        MmcbError: No images, no such model, or no human captions where those were asked for.
    """
    files = list_images(
        config.coco_root, splits=config.splits, limit=config.num_images, hint=missing_hint
    )
    path = config.folder / "captions.jsonl"
    _check_same_root(path, config.coco_root)
    done = existing_ids(path)
    todo = [file for file in files if _missing(file, done, config)]
    if todo and config.source == "model" and make is None:
        _check_sees_images(config.engine, config.model)
    # Every setting may change: what has a caption keeps it, whoever wrote it.
    run = RunDir.start(
        config.folder / "captioning",
        command="captioning",
        config=config,
        may_change=frozenset(CaptioningConfig.model_fields),
    )
    with run, RecordWriter(path, Caption) as captions:
        notes = Notes(config.folder / "skipped.jsonl")
        with notes.writer:
            images = read_annotations(config.coco_root, todo)
            job = _Job(config, path, captions, notes, done)
            with progress(len(files), "captioning", initial=len(files) - len(todo)) as bar:
                if config.source == HUMAN:
                    _take_human_captions(job, images, bar)
                elif images:
                    loader = make or (lambda name: make_generator(config.engine, name))
                    _write_captions(job, images, loader(config.model), bar)
        notes.settle()
        result = _collect(path, files, notes)
        _report(result, files=files, run=run, config=config)
    return result


class _Job(NamedTuple):
    """What both sources of captions write with."""

    config: CaptioningConfig
    path: Path
    captions: RecordWriter
    notes: Notes
    done: set[str]

    def readable(self, images: Sequence[CocoImage], bar: ProgressBar) -> list[CocoImage]:
        """The images that can be read; what is wrong with the others is noted."""
        good = []
        for image in images:
            look = look_at(image.file.path)
            self.notes.forget(image.file)
            if look.problem is not None:
                self.notes.add(image.file, "skipped", look.problem)
                bar.advance()
                continue
            if look.conversion is not None:
                self.notes.add(image.file, "converted", look.conversion)
            good.append(image)
        return good

    def caption(self, image: CocoImage, text: str, index: int, provenance: Provenance) -> Caption:
        return Caption(
            id=_caption_id(image.file, index),
            image=relative_image(self.path, image.file.path),
            image_id=image.image_id,
            text=text,
            categories=image.categories,
            license=image.license,
            provenance=provenance,
        )


def _take_human_captions(job: _Job, images: Sequence[CocoImage], bar: ProgressBar) -> None:
    if images and not job.done and not any(image.captions for image in images):
        raise MmcbError(
            f"no human captions for these images in {job.config.coco_root / 'annotations'}",
            hint="let a model write them: --source model --model tiny-llava-next",
        )
    provenance = Provenance(generator=HUMAN)
    for chunk in _chunks(images, job.config.batch_size):
        good = job.readable(chunk, bar)
        records = []
        for image in good:
            texts = image.captions[: job.config.captions_per_image]
            records += [job.caption(image, text, i, provenance) for i, text in enumerate(texts)]
            if not texts:
                job.notes.add(image.file, "skipped", "no human caption")
        job.captions.write(record for record in records if record.id not in job.done)
        bar.advance(len(good))


def _write_captions(
    job: _Job, images: Sequence[CocoImage], generator: TextGenerator, bar: ProgressBar
) -> None:
    config = job.config
    sampling = Sampling(max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
    prompt = (Message(role="user", content=config.prompt),)
    # A few batches at a time: enough to sort by size, and the bad images of a chunk are told early.
    for chunk in _chunks(images, 8 * config.batch_size):
        by_id = {_caption_id(image.file, 0): image for image in job.readable(chunk, bar)}
        requests = [
            Request(id=id_, messages=prompt, image=image.file.path) for id_, image in by_id.items()
        ]
        for batch in generator.generate(requests, sampling):
            written = []
            for completion in batch:
                image, text = by_id[completion.id], " ".join(completion.text.split())
                if completion.finish_reason == "error" or not text:
                    reason = completion.text or "no answer"
                    failed = completion.finish_reason == "error"
                    problem = f"the model failed: {reason}" if failed else "an empty caption"
                    job.notes.add(image.file, "skipped", problem)
                    continue
                provenance = _provenance(generator, completion, config)
                written.append(job.caption(image, text, 0, provenance))
            job.captions.write(written)
            bar.advance(len(batch))


def _provenance(
    generator: TextGenerator, completion: Completion, config: CaptioningConfig
) -> Provenance:
    return Provenance(
        generator=generator.name,
        revision=generator.revision,
        template="caption_prompt",
        template_hash=hashlib.sha256(config.prompt.encode()).hexdigest(),
        settings={
            "prompt": config.prompt,
            "max_new_tokens": config.max_new_tokens,
            "engine": config.engine.name,
            "finish_reason": completion.finish_reason,
        },
    )


def _caption_id(file: ImageFile, index: int) -> str:
    # Not by who wrote it: an image that has a caption needs no other.
    return record_id("caption", file.key, index)


def _missing(file: ImageFile, done: set[str], config: CaptioningConfig) -> bool:
    return any(_caption_id(file, index) not in done for index in range(config.captions_per_image))


def _chunks(images: Sequence[CocoImage], size: int) -> Iterator[list[CocoImage]]:
    rest = iter(images)
    while chunk := list(islice(rest, size)):
        yield chunk


def _check_sees_images(engine: EngineConfig, model: str) -> None:
    """Say at once that the model cannot be had, or cannot see."""
    # A name of the table tells by itself; only then is it worth a look at the disk and the network.
    family = named_family(engine, model)
    if family is None or family.kind != "llm":
        family = check_available(engine, model)
    if family is not None and family.kind == "llm":
        raise MmcbError(
            f"{model} takes no images, so it cannot caption any",
            hint="caption with --model tiny-llava-next, or take human captions: --source coco",
        )


def _check_same_root(path: Path, root: Path) -> None:
    """Two COCO folders of one name share their default output folder; never mix them."""
    if not path.exists():
        return
    with RecordWriter(path):  # cuts off a torn line; says so if another process writes here
        pass
    first = next(read_records(path, Caption), None)
    if first is None:
        return
    image = resolve_image(path, first.image)
    if not image.is_relative_to(os.path.abspath(root)):
        raise MmcbError(
            f"{path} holds captions of other images, such as {image}",
            hint="give --out another folder",
        )


def _collect(path: Path, files: Sequence[ImageFile], notes: Notes) -> Captioned:
    order = {relative_image(path, file.path): place for place, file in enumerate(files)}
    captions = [c for c in read_records(path, Caption) if c.image in order]
    captions.sort(key=lambda caption: order[caption.image])  # stable: captions of an image in order
    kept = [note for note in notes.known.values() if note.image in order]
    return Captioned(path, captions, kept)


def _report(
    result: Captioned, *, files: Sequence[ImageFile], run: RunDir, config: CaptioningConfig
) -> None:
    """Tell what there is now, and name the images that were skipped or converted."""
    writers = Counter(caption.provenance.generator for caption in result.captions)
    skipped = [note for note in result.notes if note.status == "skipped"]
    converted = [note for note in result.notes if note.status == "converted"]
    run.note("captions", dict(writers))
    run.note("images", {"seen": len(files), "skipped": len(skipped), "converted": len(converted)})
    _log.info(
        "%d images: %d captions in %s (by %s); %d skipped, %d converted",
        len(files), len(result.captions), result.path,
        ", ".join(f"{name}: {n}" for name, n in writers.items()) or "nobody",
        len(skipped), len(converted),
    )  # fmt: skip
    asked = HUMAN if config.source == HUMAN else config.model
    kept = set(writers) - {HUMAN} if config.source == HUMAN else set(writers) & {HUMAN}
    if kept:
        _log.info("captions that were there before %s was asked for were kept", asked)
    for notes in (skipped, converted):
        for note in notes[:_NAMES_SHOWN]:
            _log.info("%s %s: %s", note.status, note.image, note.reason)
        if len(notes) > _NAMES_SHOWN:
            path = result.path.with_name("skipped.jsonl")
            _log.info(
                "... and %d more %s, all in %s", len(notes) - _NAMES_SHOWN, notes[0].status, path
            )
