"""What is in a set of examples, counted from the records themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def summarize(path: Path, examples: Sequence[Example], *, what: str) -> SetSummary:
    """Count the examples of a file."""
    harmful = all(example.kind == "circuit_breaker" for example in examples)
    table = by_split(examples, lambda e: str(e.category) if harmful else e.task)
    made = Counter(
        (
            example.provenance.generator,
            example.provenance.revision or "",
            example.provenance.template or "",
        )
        for example in examples
    )
    return SetSummary(
        file=path.name,
        what=what,
        total=len(examples),
        with_image=sum(example.image is not None for example in examples),
        rows=tuple(
            (name, splits.get("train", 0), splits.get("heldout", 0))
            for name, splits in table.items()
        ),
        generators=tuple((*key, count) for key, count in sorted(made.items())),
        sha256=file_hash(path),
    )


def counts(examples: Sequence[Example]) -> dict[str, Any]:
    """Totals by split and by whether there is an image."""
    with_image = sum(example.image is not None for example in examples)
    return {
        "total": len(examples),
        "by_split": count(example.split for example in examples),
        "with_image": with_image,
        "text_only": len(examples) - with_image,
    }


def count(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, by name."""
    return dict(sorted(Counter(names).items()))


def nested(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """How often each inner name occurs with each outer one, by name."""
    table: dict[str, dict[str, int]] = {}
    for (outer, inner), number in sorted(Counter(pairs).items()):
        table.setdefault(outer, {})[inner] = number
    return table


def by_split(examples: Sequence[Example], key: Callable[[Example], str]) -> dict[str, Any]:
    """Counts by a key and, within it, by split."""
    return nested((key(example), example.split) for example in examples)
