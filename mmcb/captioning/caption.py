"""Captions for the images of a COCO folder, from a model or from COCO's annotators.

`captions.jsonl` is only ever appended to, image by image, so a kill loses at most one batch. Images
that cannot be read, or that had to be converted, are listed in `skipped.jsonl` with the reason.
Images pass through one chunk at a time: memory does not grow with the folder.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmcb.captioning.config import SHARD_RESUMABLE, CaptioningConfig
from mmcb.captioning.images import look_at
from mmcb.captioning.notes import Notes
from mmcb.captioning.outcome import HUMAN, Captioned, report
from mmcb.coco.folder import ImageFile, image_folders
from mmcb.coco.index import CocoImage, CocoIndex, Selection
from mmcb.coco.licenses import license_numbers
from mmcb.errors import MmcbError
from mmcb.generation.config import EngineConfig
from mmcb.generation.factory import check_available, make_generator, named_family
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.log import ProgressBar, get_logger, progress
from mmcb.record_index import RecordIndex
from mmcb.records import Caption, Message, Provenance
from mmcb.run_folder import RunDir
from mmcb.store import (
    RecordWriter,
    batches,
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

GeneratorMaker = Callable[[str], TextGenerator]
"""Loads the model of this name."""

_log = get_logger(__name__)


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
    path = config.folder / "captions.jsonl"
    image_folders(config.coco_root, splits=config.splits, hint=missing_hint)
    _check_same_root(path, config.coco_root)
    needs_model = config.source == "model" and make is None
    if needs_model and not path.exists():  # before minutes go into COCO's annotations
        _check_sees_images(config.engine, config.model)
    index, selection = _choose(config, missing_hint)
    done = RecordIndex(path, Caption)
    todo = sum(_missing(image.file, done, config) for image in index.images())
    if needs_model and todo:
        _check_sees_images(config.engine, config.model)
    # Every setting may change: what has a caption keeps it, whoever wrote it.
    may_change = SHARD_RESUMABLE if config.shard else frozenset(CaptioningConfig.model_fields)
    run = RunDir.start(
        config.folder / "captioning", command="captioning", config=config, may_change=may_change
    )
    with run, RecordWriter(path, Caption) as captions:
        notes = Notes(config.folder / "skipped.jsonl")
        job = _Job(config, path, captions, notes, done)
        images = (image for image in index.images() if _missing(image.file, done, config))
        generator = None
        if todo and config.source == "model":
            generator = (make or partial(make_generator, config.engine))(config.model)
        began = time.monotonic()  # after loading the model, as the bar
        with notes.writer, progress(len(index), "captioning", initial=len(index) - todo) as bar:
            if generator is not None:
                _write_captions(job, images, generator, bar)
            elif config.source == HUMAN:
                if todo and not len(done) and not index.num_captions:
                    raise _no_human_captions(config)
                _take_human_captions(job, images, bar)
        seconds = time.monotonic() - began
        done.refresh()
        notes.settle(done)
        result = Captioned(path, index, captions=done, notes=notes.index)
        report(result, selection, run=run, config=config, looked_at=todo, seconds=seconds)
    return result


def _choose(config: CaptioningConfig, hint: str) -> tuple[CocoIndex, Selection]:
    index = CocoIndex(
        config.coco_root, splits=config.splits, captions=config.source == HUMAN, hint=hint
    )
    licenses = None
    if config.licenses is not None:
        used = {number for number in index.license_counts() if number is not None}
        licenses = license_numbers(config.licenses, names=index.licenses, used=used)
    selection = index.select(
        num_images=config.num_images,
        seed=config.seed,
        licenses=licenses,
        shard=config.shard_of,
    )
    if not selection.images:
        raise MmcbError(
            f"no image in {config.coco_root} is under --licenses {' '.join(config.licenses or ())}",
            hint="give --licenses more of them, or leave it out",
        )
    return index, selection


class _Job(NamedTuple):
    """What both sources of captions write with."""

    config: CaptioningConfig
    path: Path
    captions: RecordWriter
    notes: Notes
    done: RecordIndex[Caption]

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


def _no_human_captions(config: CaptioningConfig) -> MmcbError:
    return MmcbError(
        f"no human captions for these images in {config.coco_root / 'annotations'}",
        hint="let a model write them: --source model --model tiny-llava-next",
    )


def _take_human_captions(job: _Job, images: Iterable[CocoImage], bar: ProgressBar) -> None:
    provenance = Provenance(generator=HUMAN)
    for chunk in batches(images, job.config.batch_size):
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
    job: _Job, images: Iterable[CocoImage], generator: TextGenerator, bar: ProgressBar
) -> None:
    config = job.config
    sampling = Sampling(max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
    prompt = (Message(role="user", content=config.prompt),)
    # A few batches at a time: enough to sort by size, and the bad images of a chunk are told early.
    for chunk in batches(images, 8 * config.batch_size):
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


def _missing(file: ImageFile, done: RecordIndex[Caption], config: CaptioningConfig) -> bool:
    return any(_caption_id(file, index) not in done for index in range(config.captions_per_image))


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
