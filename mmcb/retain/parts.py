"""The parts of a retain set: exactly so many of each, drawn by the seed, none of them twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmcb.curation.overlap import Decontamination
from mmcb.log import get_logger
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


class Mixer:
    """Takes examples part by part; none twice, none that a model is measured on.

    Args:
        config: Counts, seed, share to hold out.
        decontamination: The evaluation sets.
    """

    def __init__(self, config: RetainConfig, decontamination: Decontamination) -> None:
        self.config = config
        self.examples: dict[str, Example] = {}
        self.parts: list[Part] = []
        self._decontamination = decontamination

    def add(self, name: str, examples: Iterable[Example], *, wanted: int | None) -> None:
        """Take `wanted` of these, or all: which ones is decided by a hash of seed and id."""
        available = sorted(
            examples, key=lambda example: record_id("retain", self.config.seed, example.id)
        )
        taken = overlapping = repeated = 0
        for example in available:
            if taken == wanted:
                break
            if example.id in self.examples:
                repeated += 1
            elif self._measured(example):
                overlapping += 1
            else:
                self.examples[example.id] = example
                taken += 1
        part = Part(name, wanted, len(available), taken, overlapping, repeated)
        self.parts.append(part)
        if wanted is not None and taken < wanted:
            _log.warning(
                "%s: only %d of the %d asked for (%d there are, %d too like an evaluation prompt,"
                " %d taken before)",
                name, taken, wanted, part.available, overlapping, repeated,
            )  # fmt: skip

    def _measured(self, example: Example) -> bool:
        if example.task == "caption":  # one prompt for all of them: the answer tells them apart
            return self._decontamination.overlap(example.response) is not None
        texts = (m.content for m in example.messages if m.role == "user")
        return any(self._decontamination.overlap(text) is not None for text in texts)


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


def synthesis_examples(folder: Path, target: Path) -> dict[str, list[Example]]:
    """The retain examples of a synthesis folder, by the part that they belong to.

    Raises:
        MmcbError: There is no retain.jsonl, or it is damaged.
    """
    path = folder / "retain.jsonl"
    found: dict[str, list[Example]] = {name: [] for name in SYNTHESIS_PARTS}
    names = {task: name for name, task in SYNTHESIS_PARTS.items()}
    for example in read_records(path, Example):
        if example.task in names:
            found[names[example.task]].append(_moved(example, path, target))
    return found


def _moved(example: Example, source: Path, target: Path) -> Example:
    if example.image is None:
        return example
    image = relative_image(target, resolve_image(source, example.image))
    return example.model_copy(update={"image": image})
