"""The training sets put together from their sources: exact counts, drawn by the seed, told."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.records import Example
from mmcb.sources.drawing import draw, empty_requests, is_held_out
from mmcb.sources.reading import open_source, read_row
from mmcb.sources.rows import Reading
from mmcb.sources.source import Kind, Source, flag_of
from mmcb.store import resolve_image
from mmcb.training.config import TrainingConfig
from mmcb.training.examples import MAKE_DATA
from mmcb.training.sets import Sets

Pair = tuple[Path, Example]
"""An example, and the file that its image path is relative to."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """What one source gave: a line of the manifest's `sources`."""

    kind: Kind
    source: str
    """As the command line names it."""
    revision: str | None
    """Commit of a data set of the hub."""
    records: int
    """Rows read."""
    not_taken: int
    """Rows that the format leaves out."""
    train: int
    """Training examples drawn, repeats counted."""
    heldout: int
    """Held-out examples."""
    no_request: int
    """Training examples whose request was emptied."""
    hash: str
    """Of the ids of all examples, in order: what was trained on, whatever the file is called."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The examples of one source."""

    part: Part
    file: Path
    """What their image paths are relative to."""
    train: list[Example]
    heldout: list[Example]


class Mixture(NamedTuple):
    """Both sets, and what each of their sources gave."""

    pairs: list[Pair]
    parts: list[Part]


def read_sets(sets: Sets, config: TrainingConfig) -> list[Drawn]:
    """Read both sets, hold out and draw by the seed. Needs no model: a bad record is said early.

    Args:
        sets: from `sets.find_sets`.
        config: its seed, image folder and held-out fraction.

    Raises:
        MmcbError: a bad record, named by file and line; a source that cannot be read or has
            nothing to train on.
    """
    return [_read(kind, source, config) for kind in sets for source in sets[kind]]


def mix(drawn: Sequence[Drawn], *, no_request_fraction: float, seed: int) -> Mixture:
    """Put the sources together, and empty the request of a share of each one's training examples.

    Args:
        drawn: from `read_sets`.
        no_request_fraction: that share, to the nearest whole number.
        seed: seed of the choice.
    """
    pairs: list[Pair] = []
    parts: list[Part] = []
    for source in drawn:
        train, emptied = empty_requests(source.train, fraction=no_request_fraction, seed=seed)
        examples = [*train, *source.heldout]
        pairs += [(source.file, example) for example in examples]
        parts.append(replace(source.part, no_request=emptied, hash=_hash(examples)))
    total = sum(part.no_request for part in parts)
    if total:
        _log.info("%d training examples have their request emptied", total)
    return Mixture(pairs, parts)


def _read(kind: Kind, source: Source, config: TrainingConfig) -> Drawn:
    rows, reading = open_source(source, kind=kind, image_folder=config.image_folder)
    heldout: list[Example] = []
    counts = Counter[str]()

    def training_examples() -> Iterator[Example]:
        for row in rows:
            counts["records"] += 1
            example = read_row(source, row, reading)
            if example is None:
                counts["not_taken"] += 1
                continue
            if source.format != "mmcb" and is_held_out(
                example, seed=config.seed, fraction=config.heldout_fraction
            ):
                example = example.model_copy(update={"split": "heldout"})
            if example.split == "train":
                yield example
            else:
                heldout.append(example)

    train = draw(training_examples(), count=source.count, seed=config.seed)
    if not train:
        raise MmcbError(
            f"{flag_of(kind)} {source}: no training records in {source.place}"
            f" ({counts['records']} read, {counts['not_taken']} not of use)",
            hint=MAKE_DATA if source.format == "mmcb" else None,
        )
    if source.format == "llava":
        _check_images(source, reading, train)
    part = Part(
        kind=kind,
        source=str(source),
        revision=reading.revision,
        records=counts["records"],
        not_taken=counts["not_taken"],
        train=len(train),
        heldout=len(heldout),
        no_request=0,
        hash=_hash([*train, *heldout]),
    )
    _tell(part)
    return Drawn(part, reading.file, train, heldout)


def _check_images(source: Source, reading: Reading, train: Sequence[Example]) -> None:
    """A single missing image is left out later; where all are missing, the folder is wrong."""
    images = [example.image for example in train if example.image is not None]
    if images and not any(resolve_image(reading.file, image).is_file() for image in images):
        raise MmcbError(
            f"{source.place}: none of its images is there; the first would be"
            f" {resolve_image(reading.file, images[0])}",
            hint="give the folder that its paths begin in: --image-folder data/coco/train2017",
        )


def _hash(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.split} {example.id}\n".encode())
    return digest.hexdigest()[:12]


def _tell(part: Part) -> None:
    _log.info(
        "%s: %d training examples of %d records in %s (%d not of use, %d held out)",
        part.kind, part.train, part.records, part.source, part.not_taken, part.heldout,
    )  # fmt: skip
