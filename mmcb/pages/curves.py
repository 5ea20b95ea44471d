"""What a run logged, read back for showing.

These files are read for showing only, so a missing or unfamiliar one leaves a gap in a report and
never stops a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Point = tuple[float, float]
"""(step, value)."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if there is no such file or it is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a JSONL file; a torn line ends it, a missing file is empty."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                return
            if isinstance(value, dict):
                yield value


def training_curves(run: Path) -> dict[str, list[Point]]:
    """Every number that a training run logged, by name, as points over the steps.

    A step logged twice (a killed run, resumed from a checkpoint before it) counts as it was
    logged last.
    """
    curves: dict[str, dict[float, float]] = {}
    for line in read_lines(run / "metrics.jsonl"):
        step = line.get("step")
        if not isinstance(step, int | float):
            continue
        for name, value in _numbers(line):
            if name != "step":
                curves.setdefault(name, {})[float(step)] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def _numbers(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _numbers(item, f"{name}_")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield name, float(item)
