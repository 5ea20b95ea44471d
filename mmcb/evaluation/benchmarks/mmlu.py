"""MMLU's own CSV files: questions with four choices, in the layouts that are about.

Source: Hendrycks et al. 2021 (arXiv 2009.03300). The authors' files have no header and name the
answer by its letter; copies have the columns question, choice0 to choice3 and answer, a number.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmcb.errors import MmcbError
from mmcb.evaluation.benchmarks.config import BenchmarkConfig
from mmcb.evaluation.benchmarks.reading import Placed, files
from mmcb.records import Task

LETTERS = "ABCD"
_HEADER = ["question", *(f"choice{number}" for number in range(4)), "answer"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a subject."""

    where: str
    """File and line."""
    number: int
    """From 0, within the file."""
    text: str
    choices: tuple[str, ...]
    """Four."""
    answer: int
    """Index of the right choice."""


def read_questions(path: Path) -> Iterator[Question]:
    """The questions of one file.

    Raises:
        MmcbError: the file is missing or no CSV, or a row has not six fields, an empty one, or an
            answer that is none of the four, with file and line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _questions(path, file)
    except OSError as error:
        raise MmcbError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise MmcbError(f"{path}: not UTF-8 text") from None


def _questions(path: Path, file: Iterator[str]) -> Iterator[Question]:
    reader = csv.reader(file, strict=True)
    number, first = 0, 1
    try:
        for fields in reader:
            where = f"{path}:{first}"
            begins, first = first == 1, reader.line_num + 1
            if not fields or (begins and fields == _HEADER):
                continue
            yield _question(where, number, fields)
            number += 1
    except csv.Error as error:
        raise MmcbError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _question(where: str, number: int, fields: list[str]) -> Question:
    if len(fields) != len(_HEADER):
        raise MmcbError(f"{where}: has {len(fields)} fields, not question, four choices and answer")
    empty = next(
        (name for name, value in zip(_HEADER, fields, strict=True) if not value.strip()), None
    )
    if empty is not None:
        raise MmcbError(f"{where}: {empty}: is empty")
    answer = fields[-1].strip()
    if answer not in (*LETTERS, *"0123"):
        raise MmcbError(f"{where}: answer: {answer!r} is none of A, B, C, D and none of 0, 1, 2, 3")
    index = LETTERS.index(answer) if answer in LETTERS else int(answer)
    return Question(where, number, fields[0], tuple(fields[1:5]), index)


def read_mmlu(config: BenchmarkConfig) -> Iterator[Placed]:
    """Questions as tasks with a reference, for models that are asked in words.

    The published score is by log-likelihoods: `mmcb evaluation lm_eval --mmlu-csv`.

    Raises:
        MmcbError: as `read_questions`.
    """
    for path in files(config.source, "*.csv"):
        for question in read_questions(path):
            lines = tuple(f"{LETTERS[i]}. {text}" for i, text in enumerate(question.choices))
            prompt = "\n".join(
                [question.text, *lines, "Answer with the letter and text of one choice."]
            )
            task = Task(
                id=f"mmlu-{path.stem}-{question.number}",
                task="fact",
                prompt=prompt,
                references=(lines[question.answer],),
                choices=lines,
            )
            yield Placed(question.where, task)
