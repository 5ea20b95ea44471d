"""What is in a set of examples, counted from the records themselves."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.record_index import temporary_database
from mmcb.records import Example
from mmcb.store import file_hash


@dataclass(frozen=True, slots=True)
class SetSummary:
    """One file of examples."""

    file: str
    what: str
    """What one line of it is."""
    total: int
    with_image: int
    rows: tuple[tuple[str, int, int], ...]
    """(category of harm, or task; training examples; held-out examples)."""
    generators: tuple[tuple[str, str, str, int], ...]
    """(who wrote the answers, revision, template, examples)."""
    sha256: str


def summarize(path: Path, examples: Iterable[Example], *, what: str) -> SetSummary:
    """Count the examples of a file; they are gone through once."""
    tasks: Counter[tuple[str, str]] = Counter()
    categories: Counter[tuple[str, str]] = Counter()
    made: Counter[tuple[str, str, str]] = Counter()
    with_image = 0
    for example in examples:
        tasks[example.task, example.split] += 1
        categories[str(example.category), example.split] += 1
        by = example.provenance
        made[by.generator, by.revision or "", by.template or ""] += 1
        with_image += example.image is not None
    harmful = {task for task, _ in tasks} <= {"harmful"}
    return SetSummary(
        file=path.name,
        what=what,
        total=tasks.total(),
        with_image=with_image,
        rows=tuple(
            (name, splits.get("train", 0), splits.get("heldout", 0))
            for name, splits in nested(categories if harmful else tasks).items()
        ),
        generators=tuple((*key, count) for key, count in sorted(made.items())),
        sha256=file_hash(path),
    )


def counts(examples: Iterable[Example]) -> dict[str, Any]:
    """Totals by split and by whether there is an image."""
    found = Counter((example.split, example.image is not None) for example in examples)
    with_image = sum(number for (_, shows), number in found.items() if shows)
    by_split: Counter[str] = Counter()
    for (split, _), number in found.items():
        by_split[split] += number
    return {
        "total": found.total(),
        "by_split": dict(sorted(by_split.items())),
        "with_image": with_image,
        "text_only": found.total() - with_image,
    }


def count(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, by name."""
    return dict(sorted(Counter(names).items()))


def distinct(texts: Iterable[str]) -> int:
    """How many different texts there are; counted on disk, for there may be very many."""
    database = temporary_database()
    database.execute("CREATE TABLE text (digest BLOB PRIMARY KEY) WITHOUT ROWID")
    digests = ((hashlib.sha256(text.encode()).digest(),) for text in texts)
    database.executemany("INSERT OR IGNORE INTO text VALUES (?)", digests)
    return int(database.execute("SELECT count(*) FROM text").fetchone()[0])


def nested(
    pairs: Iterable[tuple[str, str]] | Counter[tuple[str, str]],
) -> dict[str, dict[str, int]]:
    """How often each inner name occurs with each outer one, by name."""
    table: dict[str, dict[str, int]] = {}
    for (outer, inner), number in sorted(Counter(pairs).items()):
        table.setdefault(outer, {})[inner] = number
    return table


def by_split(examples: Iterable[Example], key: Callable[[Example], str]) -> dict[str, Any]:
    """Counts by a key and, within it, by split."""
    return nested((key(example), example.split) for example in examples)
