"""The outcomes of all tasks -> the numbers of results.json, and the table for a terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mmcb.evaluation.contamination.sentences import sentences
from mmcb.evaluation.lm_eval.config import PAPER_METRICS
from mmcb.evaluation.lm_eval.tasks import LoadedTask
from mmcb.evaluation.metrics import Z_95

Outcome = Mapping[str, Any]


def summarize(
    tasks: Sequence[LoadedTask], outcomes: Mapping[str, Mapping[str, Outcome]]
) -> dict[str, Any]:
    """Every task's numbers by role, and how far the adapter changes them.

    Args:
        tasks: in order.
        outcomes: by role, then by task.
    """
    return {
        "version": 1,
        "tasks": {
            task.name: _task(task, {role: of[task.name] for role, of in outcomes.items()})
            for task in tasks
        },
        "paper_average": {role: paper_average(of) for role, of in outcomes.items()},
    }


def paper_average(outcomes: Mapping[str, Outcome]) -> float | None:
    """The mean of the paper's six tasks, "Open LLM" in its Table 1; None unless all six ran."""
    values = [
        outcomes[task]["metrics"].get(task, {}).get(metric, {}).get("value")
        for task, metric in PAPER_METRICS.items()
        if task in outcomes
    ]
    if len(values) < len(PAPER_METRICS) or None in values:
        return None
    return statistics.fmean(values)


def _task(task: LoadedTask, by_role: Mapping[str, Outcome]) -> dict[str, Any]:
    first = next(iter(by_role.values()))
    # A tag has no number of its own: each of its tasks is a row.
    heads = [task.name] if task.name in first["metrics"] else list(task.leaves)
    return {
        "source": task.source,
        "shots": sorted(set(first["shots"].values())),
        "n": sum(first["n"].values()),
        "task_versions": first["task_versions"],
        "task_hashes": first["task_hashes"],
        "rows": {name: _row(name, by_role) for name in heads},
        "subtasks": {name: _row(name, by_role) for name in first["metrics"] if name not in heads},
    }


def _row(name: str, by_role: Mapping[str, Outcome]) -> dict[str, Any]:
    """A task's or group's metrics: each role's value, and the change of the same items' scores."""
    roles = list(by_role)
    row: dict[str, Any] = {}
    for metric in by_role[roles[0]]["metrics"][name]:
        row[metric] = {
            role: {**of["metrics"][name][metric], "n": _n(name, of)} for role, of in by_role.items()
        }
        if len(roles) == 2:
            row[metric]["change"] = paired_change(
                *(_scores(name, metric, of) for of in by_role.values())
            )
    return row


def _n(name: str, outcome: Outcome) -> int | None:
    """Items of a task; of a group that is no task of its own all that ran, if it is the whole."""
    own = outcome["n"].get(name)
    return own if own is not None else _group_n(name, outcome)


def _group_n(name: str, outcome: Outcome) -> int | None:
    whole = [group for group in outcome["metrics"] if group not in outcome["n"]]
    # Of nested groups lm-eval does not say which tasks are whose; the outermost has them all.
    return sum(outcome["n"].values()) if whole and whole[0] == name else None


def _scores(name: str, metric: str, outcome: Outcome) -> list[float]:
    """Each item's score; of the outermost group those of all its tasks."""
    items: Mapping[str, Mapping[str, list[float]]] = outcome["items"]
    if name in items:
        return list(items[name].get(metric, ()))
    if _group_n(name, outcome) is None:
        return []
    return [score for task in sorted(items) for score in items[task].get(metric, ())]


def paired_change(base: Sequence[float], defended: Sequence[float]) -> dict[str, Any] | None:
    """Mean change of the same items' scores with its 95 % interval (normal approximation).

    Both models answer the same items, so this interval is narrower than that of either number;
    None where there are no scores of single items to compare.
    """
    if len(base) != len(defended) or len(base) < 2:
        return None
    changes = [after - before for before, after in zip(base, defended, strict=True)]
    mean = statistics.fmean(changes)
    half = Z_95 * statistics.stdev(changes) / math.sqrt(len(changes))
    return {"value": mean, "n": len(changes), "low": mean - half, "high": mean + half}


def headline(results: Mapping[str, Any]) -> str:
    """Before and after, in a line: the paper's average, or the first metric of every task."""
    average = results.get("paper_average") or {}
    if average and None not in average.values():
        return f"the paper's six {' -> '.join(f'{value:.3f}' for value in average.values())}"
    parts = []
    for task in results["tasks"].values():
        for name, metrics in task["rows"].items():
            found: Mapping[str, Any] = next(iter(metrics.values()), {})
            values = [f"{one['value']:.3f}" for one in _roles(found) if one["value"] is not None]
            parts.append(f"{name} {' -> '.join(values)}")
    return ", ".join(parts)


def _roles(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [of for role, of in found.items() if role != "change"]


def print_summary(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print every task's numbers, and the change where both models were asked."""
    roles = list(results["settings"]["weights"])
    table = Table(title="lm-eval (standard error in brackets; change with its 95 % interval)")
    table.add_column("task and metric")
    for name in ("n", *roles):
        table.add_column(name, justify="right", no_wrap=True)
    if len(roles) == 2:
        table.add_column("change", justify="right")
    for task in results["tasks"].values():
        shots = "/".join(map(str, task["shots"]))
        for name, metrics in task["rows"].items():
            for metric, found in metrics.items():
                n = found[roles[0]]["n"]
                cells = [_number(found[role]) for role in roles]
                cells += [_change(found["change"])] if len(roles) == 2 else []
                title = f"{name}@{shots} {metric.removesuffix(',none')}"
                table.add_row(title, "-" if n is None else str(n), *cells)
    average = results["paper_average"]
    if None not in average.values():
        table.add_section()
        cells = [f"{average[role]:.3f}" for role in roles]
        table.add_row("average of the paper's six", "", *cells)
    console = console or Console()
    console.print(table)
    for sentence in sentences(results["contamination"]):
        console.print(sentence, markup=False)


def _number(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "-"
    error = "" if found["stderr"] is None else f" ({found['stderr']:.3f})"
    return f"{found['value']:.3f}{error}"


def _change(change: Mapping[str, Any] | None) -> str:
    # Rich reads square brackets as markup unless the first is escaped.
    return (
        "-"
        if change is None
        else f"{change['value']:+.3f} \\[{change['low']:+.3f}, {change['high']:+.3f}]"
    )
