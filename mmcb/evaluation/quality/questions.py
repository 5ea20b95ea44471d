"""The benchmarks' own files -> questions with all that an answer and a judgement need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.benchmarks.reading import first_picture
from mmcb.evaluation.quality.config import QualityBenchmark, QualityConfig
from mmcb.log import get_logger
from mmcb.sources.rows import Row, read_rows

NEED_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
"""MT-Bench's categories that are graded against a reference. Source: FastChat's `NEED_REF_CATS`."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """One question, in one turn or several.

    Attributes:
        id: unique within a run.
        category: the benchmark's own.
        turns: what the user says, the first with the picture.
        references: the reference's answer to each turn; empty where the judge needs none.
        image: file of the picture.
        context: what the judge reads instead of the picture.
        boxes: what is where in it, in words; None where the benchmark has none.
    """

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()
    image: Path | None = None
    context: str | None = None
    boxes: str | None = None


def read_questions(config: QualityConfig) -> list[Question]:
    """The questions of a run, each once.

    Raises:
        MmcbError: a bad record, a missing reference, context or picture, or an id that stands
            twice, with file and line; no question at all.
    """
    found: dict[str, Question] = {}
    for row, question in _READERS[config.benchmark](config):
        if question.id in found:
            raise row.problem(f"question_id {question.id} stands twice")
        found[question.id] = question
    if not found:
        raise MmcbError(f"{config.questions}: holds no question")
    _log.info("%s: %d questions", config.questions, len(found))
    return list(found.values())[: config.limit]


def set_name(benchmark: QualityBenchmark, questions: Sequence[Question]) -> str:
    """mt-bench, llava-bench-coco or llava-bench-wild: of the two, only COCO's tells boxes."""
    if benchmark == "mt-bench":
        return benchmark
    return f"{benchmark}-{'wild' if all(q.boxes is None for q in questions) else 'coco'}"


Read = Iterator[tuple[Row, Question]]


def _mt_bench(config: QualityConfig) -> Read:
    """FastChat's question.jsonl: question_id, category and turns.

    Source: Zheng et al. 2023 (arXiv 2306.05685).
    """
    references = _by_id(config.references)
    for row in read_rows(config.questions):
        name, category = _id(row), row.text("category")
        given: tuple[str, ...] = ()
        turns = _texts(row, row.values.get("turns"), "turns")
        if category in NEED_REFERENCE:
            given = _reference_turns(_of(references, name, row, config.references))
            if len(given) < len(turns):
                raise row.problem(f"has {len(turns)} turns, its reference answer {len(given)}")
        yield row, Question(name, category, turns, given)


def _llava_bench(config: QualityConfig) -> Read:
    """LLaVA's questions: question_id, image, text and category, with answers and contexts.

    Source: Liu et al. 2023 (arXiv 2304.08485).
    """
    if config.context is None or config.images is None:
        missing = "--context" if config.context is None else "--images"
        raise MmcbError(f"llava-bench needs {missing}", hint="--help says which of its files it is")
    references = _by_id(config.references)
    contexts = {row.text("image"): row for row in read_rows(config.context)}
    for row in read_rows(config.questions):
        name, image = _id(row), row.text("image")
        reference = _of(references, name, row, config.references)
        if image not in contexts:
            raise row.problem(f"picture {image} has no context in {config.context}")
        context, boxes = _context(contexts[image])
        yield (
            row,
            Question(
                id=name,
                category=row.text("category"),
                turns=(row.text("text"),),
                references=(reference.text("text"),),
                # COCO's own file names have a prefix that the questions leave out.
                image=first_picture(config.images, row, image, f"COCO_val2014_{image}"),
                context=context,
                boxes=boxes,
            ),
        )


_READERS: Mapping[QualityBenchmark, Callable[[QualityConfig], Read]] = {
    "mt-bench": _mt_bench,
    "llava-bench": _llava_bench,
}


def _id(row: Row) -> str:
    if not isinstance(row.values.get("question_id"), (int, str)):
        raise row.problem("question_id: missing")
    return str(row.values["question_id"])


def _by_id(path: Path) -> dict[str, Row]:
    return {_id(row): row for row in read_rows(path)}


def _of(references: Mapping[str, Row], name: str, row: Row, path: Path) -> Row:
    if name not in references:
        raise row.problem(f"question_id {name} has no answer in {path}")
    return references[name]


def _texts(row: Row, value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise row.problem(f"{key}: must be a list of texts")
    return tuple(value)


def _reference_turns(row: Row) -> tuple[str, ...]:
    """The turns of FastChat's answers: those of the first choice."""
    choices = row.values.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise row.problem("choices: must be a list with turns")
    return _texts(row, choices[0].get("turns"), "choices[0].turns")


def _context(row: Row) -> tuple[str, str | None]:
    """(captions, boxes) of the COCO file, (caption, None) of the one in the wild."""
    if "captions" not in row.values:
        return row.text("caption"), None
    captions = "\n".join(_texts(row, row.values["captions"], "captions"))
    instances = row.values.get("instances")
    if not isinstance(instances, list):
        raise row.problem("instances: must be a list of category and bbox")
    return captions, "\n".join(_box(row, instance) for instance in instances)


def _box(row: Row, instance: Any) -> str:
    if not isinstance(instance, Mapping) or not {"category", "bbox"} <= instance.keys():
        raise row.problem("instances: must be a list of category and bbox")
    return f"{instance['category']}: {instance['bbox']}"
