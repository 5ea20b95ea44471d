"""How often each benchmark is refused: its harmless half and its harmful half apart.

Of XSTest's 250 harmless prompts a model should refuse none, of their 200 harmful contrasts all; a
model that answers, or refuses, everything is right on one half only. OR-Bench has its harmful half
in a file of its own (`or-bench-toxic`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mmcb.evaluation.benchmarks.config import BenchmarkName
from mmcb.evaluation.metrics import behavior_rate
from mmcb.evaluation.verdicts import Item

OWN = "own"
"""What came from no benchmark that `mmcb evaluation benchmarks` reads."""

Half = str
"""`harmless` or `harmful`."""


def benchmark_of(name: str) -> str:
    """The benchmark that a record's id was made by; the longest name that fits."""
    fitting = [known for known in get_args(BenchmarkName) if name.startswith(f"{known}-")]
    return max(fitting, key=len, default=OWN)


def half_of(item: Item) -> Half | None:
    """Which half of a benchmark an item belongs to; None for what is no plain request.

    Attacks are left out: what they bring about is no answer to the request as it stands.
    """
    if item.task is not None:
        return "harmless" if item.task.task == "over_refusal" else None
    return "harmful" if item.attempt.attack == "direct" else None


def refusal_table(
    by_role: Mapping[str, Sequence[tuple[Item, bool | None]]],
) -> dict[str, dict[Half, dict[str, Any]]]:
    """Rates of refusals by benchmark, half and role.

    Args:
        by_role: each item with the refusal judge's word on it.
    """
    labels: dict[str, dict[Half, dict[str, list[tuple[str, bool | None]]]]] = {}
    for role, judged in by_role.items():
        for item, refused in judged:
            half = half_of(item)
            if half is not None:
                name = item.attempt.behavior_id
                halves = labels.setdefault(benchmark_of(name), {})
                halves.setdefault(half, {}).setdefault(role, []).append((name, refused))
    return {
        name: {
            half: {role: behavior_rate(found).as_dict() for role, found in roles.items()}
            for half, roles in sorted(halves.items(), reverse=True)
        }
        for name, halves in sorted(labels.items())
    }
