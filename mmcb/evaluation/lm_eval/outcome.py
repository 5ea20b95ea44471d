"""What is kept of lm-eval's results: numbers, counts, versions, hashes, each item's own score."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any


def outcome_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `simple_evaluate`'s results that is written down.

    `metrics.NAME.METRIC` has `value` and `stderr` (None where lm-eval gives none), for tasks and
    groups; METRIC is lm-eval's `metric,filter`. `items.TASK.METRIC` lists the score of every item.
    """
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = found["samples"]
    return {
        "metrics": {name: _metrics(row) for name, row in _rows(found).items()},
        "n": {name: len({sample["doc_id"] for sample in of}) for name, of in samples.items()},
        "shots": dict(found["n-shot"]),
        "task_versions": {name: str(version) for name, version in found["versions"].items()},
        "task_hashes": {name: _hash(of) for name, of in samples.items()},
        "items": {name: _items(of) for name, of in samples.items()},
    }


def _rows(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {**found["results"], **found.get("groups", {})}


def _metrics(row: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    table: dict[str, dict[str, float | None]] = {}
    for key, value in row.items():
        metric, comma, filter_ = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            table[key] = {
                "value": _number(value),
                "stderr": _number(row.get(f"{metric}_stderr,{filter_}")),
            }
    return table


def _number(value: object) -> float | None:
    """lm-eval writes "N/A" where a number cannot be had."""
    return float(value) if isinstance(value, (int, float)) else None


def _hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """Of every item, its prompt and its target, as lm-eval's own results files have it."""
    parts = (f"{s['doc_hash']}{s['prompt_hash']}{s['target_hash']}" for s in samples)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _items(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The score of every item; metrics that are no number of one item have none."""
    table: dict[str, list[float]] = {}
    for sample in sorted(samples, key=lambda one: one["doc_id"]):
        for metric in sample["metrics"]:
            score = _number(sample[metric])
            if score is not None:
                table.setdefault(f"{metric},{sample['filter']}", []).append(score)
    return table
