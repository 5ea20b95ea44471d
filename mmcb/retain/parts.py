"""The parts of a retain set: exactly so many of each, drawn by the seed, none of them twice."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from mmcb.curation.overlap import Decontamination
from mmcb.log import get_logger
from mmcb.record_index import temporary_database
from mmcb.records import Example
from mmcb.retain.config import RetainConfig
from mmcb.sources.drawing import is_held_out
from mmcb.sources.reading import open_source, read_row
from mmcb.sources.source import Source
from mmcb.store import read_records, record_id, relative_image, resolve_image

SYNTHESIS_PARTS = {
    "twins": "benign_howto",
    "refusals": "refusal",
    "captions": "caption",
    "questions": "question",
}
"""Parts taken from a synthesis folder, with the task that their examples have there."""

SPARE = 20
"""So many examples more than are wanted, and one more for so many wanted, for those left out."""

T = TypeVar("T")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """What one part gave: a row of report.json's `parts`."""

    name: str
    wanted: int | None
    available: int
    taken: int
    overlapping: int
    """Examples left out because they are too like an evaluation prompt."""
    repeated: int
    """Examples left out because an earlier part has them."""


Examples = Callable[[], Iterator[Example]]
"""Reads a part's examples from the beginning, one at a time, the same each time."""


class Mixer:
    """Takes examples part by part; none twice, none that a model is measured on.

    Of a part no more examples are in memory than are wanted of it, and some.

    Args:
        config: Counts, seed, share to hold out.
        decontamination: The evaluation sets.
    """

    def __init__(self, config: RetainConfig, decontamination: Decontamination) -> None:
        self.config = config
        self.parts: list[Part] = []
        """What has been taken whole so far."""
        self._decontamination = decontamination
        self._taken = temporary_database()
        self._taken.execute("CREATE TABLE taken (id TEXT PRIMARY KEY) WITHOUT ROWID")

    def take(self, name: str, examples: Examples, *, wanted: int | None) -> Iterator[Example]:
        """Hand out `wanted` of these, or all: which ones is decided by a hash of seed and id.

        Args:
            name: What the report calls the part.
            examples: The part.
            wanted: How many; None for all, in their own order.
        """
        count = Counter[str]()
        if wanted is None:
            offered = _counted(examples(), count)
        else:
            offered = self._ranked(examples, wanted, count)
        for example in offered:
            if count["taken"] == wanted:
                break
            fate = self._fate(example)
            count[fate] += 1
            if fate == "taken":
                yield example
        part = Part(
            name, wanted, count["available"], count["taken"], count["overlapping"],
            count["repeated"],
        )  # fmt: skip
        self.parts.append(part)
        if wanted is not None and part.taken < wanted:
            _log.warning(
                "%s: only %d of the %d asked for (%d there are, %d too like an evaluation prompt,"
                " %d taken before)",
                name, part.taken, wanted, part.available, part.overlapping, part.repeated,
            )  # fmt: skip

    def _ranked(self, examples: Examples, wanted: int, count: Counter[str]) -> Iterator[Example]:
        """All of them by rank: the first that are wanted, and some; then, if need be, the next."""
        size = wanted + wanted // SPARE + SPARE
        after = ("", -1)
        while True:
            # Counted in the first pass alone.
            passed = _counted(examples(), count if after[1] < 0 else Counter())
            ranked = (
                (record_id("retain", self.config.seed, example.id), place, example)
                for place, example in enumerate(passed)
            )
            left = (each for each in ranked if each[:2] > after)
            part = heapq.nsmallest(size, left, key=lambda each: each[:2])
            yield from (example for _, _, example in part)
            if len(part) < size:
                return
            after = part[-1][:2]

    def _fate(self, example: Example) -> Literal["taken", "repeated", "overlapping"]:
        known = self._taken.execute("SELECT 1 FROM taken WHERE id = ?", (example.id,)).fetchone()
        if known is not None:
            return "repeated"
        if self._measured(example):
            return "overlapping"
        self._taken.execute("INSERT INTO taken VALUES (?)", (example.id,))
        return "taken"

    def _measured(self, example: Example) -> bool:
        if example.task == "caption":  # one prompt for all of them: the answer tells them apart
            return self._decontamination.overlap(example.response) is not None
        texts = (m.content for m in example.messages if m.role == "user")
        return any(self._decontamination.overlap(text) is not None for text in texts)


def _counted(items: Iterator[T], count: Counter[str]) -> Iterator[T]:
    for item in items:
        count["available"] += 1
        yield item


def source_examples(source: Source, config: RetainConfig, target: Path) -> Iterator[Example]:
    """The examples of a source, some held out, their image paths from the folder of `target`.

    Raises:
        MmcbError: A record that is not of the format, named by file and line.
    """
    rows, reading = open_source(source, kind="retain", image_folder=config.image_folder)
    for row in rows:
        example = read_row(source, row, reading)
        if example is None:
            continue
        if source.format != "mmcb":
            example = held_out(example, config)
        yield _moved(example, reading.file, target)


def held_out(example: Example, config: RetainConfig) -> Example:
    """The example on the side of the split that its picture or request is on."""
    out = is_held_out(example, seed=config.seed, fraction=config.heldout_fraction)
    return example.model_copy(update={"split": "heldout"}) if out else example


def synthesis_examples(folder: Path, target: Path, *, part: str) -> Iterator[Example]:
    """The retain examples of a synthesis folder that belong to a part.

    Raises:
        MmcbError: There is no retain.jsonl, or it is damaged.
    """
    path = folder / "retain.jsonl"
    for example in read_records(path, Example):
        if example.task == SYNTHESIS_PARTS[part]:
            yield _moved(example, path, target)


def _moved(example: Example, source: Path, target: Path) -> Example:
    if example.image is None:
        return example
    image = relative_image(target, resolve_image(source, example.image))
    return example.model_copy(update={"image": image})
