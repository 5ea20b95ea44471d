"""What captioning leaves behind, and what is told of it."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mmcb.captioning.config import CaptioningConfig
from mmcb.captioning.notes import ImageNote, Status
from mmcb.coco.index import CocoIndex, Selection
from mmcb.log import format_seconds, get_logger
from mmcb.record_index import RecordIndex
from mmcb.records import Caption
from mmcb.run_folder import RunDir
from mmcb.store import relative_image, resolve_image

HUMAN = "coco"
"""The generator's name in the provenance of human captions."""

_NAMES_SHOWN = 10
_log = get_logger(__name__)


class Captioned:
    """The captions of the images that were asked for; both are read from disk as they are wanted.

    Args:
        path: captions.jsonl; images in it are relative to its folder.
        index: The images that were asked for.
        captions: The index of `path`.
        notes: The index of skipped.jsonl.
    """

    def __init__(
        self,
        path: Path,
        index: CocoIndex,
        *,
        captions: RecordIndex[Caption],
        notes: RecordIndex[ImageNote],
    ) -> None:
        self.path = path
        self.index = index
        self._captions = captions
        self._notes = notes

    def __iter__(self) -> Iterator[Caption]:
        return self.captions()

    def captions(self) -> Iterator[Caption]:
        """The captions, in the order of the images."""
        for image in self.index.images():
            yield from self._captions.of_image(relative_image(self.path, image.file.path))

    def notes(self, status: Status | None = None) -> Iterator[ImageNote]:
        """What was skipped or converted, in the order of the images."""
        for image in self.index.images():
            for note in self._notes.of_image(relative_image(self.path, image.file.path)):
                if status in (None, note.status):
                    yield note


def report(
    result: Captioned,
    selection: Selection,
    *,
    run: RunDir,
    config: CaptioningConfig,
    looked_at: int,
    seconds: float,
) -> None:
    """Tell what there is now, and name the images that were skipped or converted.

    Args:
        result: What was left behind.
        selection: Which images were asked for, of all shards.
        run: Takes the same into its manifest.
        config: What was asked for.
        looked_at: How many images this run went through.
        seconds: How long that took, without loading the model.
    """
    _tell_images(result.index, selection, run=run, config=config)
    writers = Counter(caption.provenance.generator for caption in result.captions())
    found = Counter(note.status for note in result.notes())
    run.note("captions", dict(writers))
    run.note(
        "images",
        {"seen": len(result.index), "skipped": found["skipped"], "converted": found["converted"]},
    )
    _log.info(
        "%d images: %d captions in %s (by %s); %d skipped, %d converted",
        len(result.index), writers.total(), result.path,
        ", ".join(f"{name}: {n}" for name, n in writers.items()) or "nobody",
        found["skipped"], found["converted"],
    )  # fmt: skip
    asked = HUMAN if config.source == HUMAN else config.model
    kept = set(writers) - {HUMAN} if config.source == HUMAN else set(writers) & {HUMAN}
    if kept:
        _log.info("captions that were there before %s was asked for were kept", asked)
    for status in ("skipped", "converted"):
        _name(result, status, found[status])
    if looked_at and seconds > 0:
        rate = looked_at / seconds
        run.note(
            "throughput",
            {"images": looked_at, "seconds": round(seconds, 1), "per_second": round(rate, 2)},
        )
        _log.info("%d images in %s: %.1f images/s", looked_at, format_seconds(seconds), rate)


def _tell_images(
    index: CocoIndex, selection: Selection, *, run: RunDir, config: CaptioningConfig
) -> None:
    """Say which images were taken, under which licences, and where annotations do not fit them."""
    coverage = index.coverage()
    if coverage:
        rarest, count = next(iter(coverage.items()))
        _log.info(
            "%d images show %d of %d categories, %s the least (%d)",
            len(index), len(coverage), index.num_categories, rarest, count,
        )  # fmt: skip
    if index.without_annotation:
        _log.info("%d images stand in no annotation file", index.without_annotation)
    if index.without_file:
        _log.info(
            "%d annotated images are not in the folder: a part of COCO, or an unfinished download",
            index.without_file,
        )
    run.note(
        "selection",
        {"images": selection.images, "sha256": selection.sha256, "shard_images": len(index)},
    )
    run.note("categories", coverage)
    run.note(
        "licenses",
        [
            {"id": number, "name": index.licenses.get(number or 0), "images": count}
            for number, count in index.license_counts().items()
        ],
    )
    run.note(
        "annotations",
        {
            "files": [str(path) for path in index.files],
            "images_without_annotation": index.without_annotation,
            "annotations_without_image": index.without_file,
        },
    )


def _name(result: Captioned, status: Status, count: int) -> None:
    for note in islice(result.notes(status), _NAMES_SHOWN):
        image = os.path.relpath(resolve_image(result.path, note.image))
        _log.info("%s %s: %s", note.status, image, note.reason)
    if count > _NAMES_SHOWN:
        path = result.path.with_name("skipped.jsonl")
        _log.info("... and %d more %s, all in %s", count - _NAMES_SHOWN, status, path)
