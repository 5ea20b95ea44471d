"""What lm-eval, MT-Bench and LLaVA-Bench gave, as the rows of an evaluation's report.

Reads the results of `evaluation.lm_eval` and `evaluation.quality`; their commands measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmcb.evaluation.lm_eval.config import PAPER_METRICS
from mmcb.evaluation.metrics import Z_95, wilson_interval

PAPER_AVERAGE = "paper_average"
"""The row that is the mean of the paper's six."""

Found = tuple[str, dict[str, Any]]
"""A benchmark's name and its row: `how` and `scale` ("share" of 1, or "number"), and by role
{value, n, low, high}: the 95 % interval, null where there is no standard error."""


def lm_eval_rows(results: Mapping[str, Any]) -> Iterator[Found]:
    """A row for each of lm-eval's tasks, and the mean of the paper's six where all ran."""
    limit = results["settings"]["limit"]
    first = "" if limit is None else f", the first {limit} items of each task"
    for task in results["tasks"].values():
        shots = "/".join(map(str, task["shots"]))
        for name, metrics in task["rows"].items():
            metric = PAPER_METRICS.get(name) or next(iter(metrics), None)
            if metric is not None and metric in metrics:
                how = f"lm-eval, {metric.removesuffix(',none')}, {shots} shots{first}"
                yield name, _row(how, {k: v for k, v in metrics[metric].items() if k != "change"})
    averages = {role: value for role, value in results["paper_average"].items() if value}
    if averages:
        how = f"lm-eval, mean of {', '.join(PAPER_METRICS)}{first}"
        of = {role: _average(role, value, results["tasks"]) for role, value in averages.items()}
        yield PAPER_AVERAGE, _row(how, of)


def _average(role: str, value: float, tasks: Mapping[str, Any]) -> dict[str, Any]:
    """The six have no item in common, so the variances of their means add up."""
    parts = [tasks[task]["rows"][task][metric][role] for task, metric in PAPER_METRICS.items()]
    errors = [part["stderr"] for part in parts]
    error = None if None in errors else math.hypot(*errors) / len(errors)
    return {"value": value, "stderr": error, "n": None}


def _row(how: str, roles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    values = [of["value"] for of in roles.values()]
    share = all(value is None or 0 <= value <= 1 for value in values)
    rates = {role: _rate(of, share=share) for role, of in roles.items()}
    return {"how": how, "scale": "share" if share else "number", **rates}


def _rate(of: Mapping[str, Any], *, share: bool) -> dict[str, Any]:
    """Wilson's interval of a share of n items, as everywhere; else from the standard error."""
    value, error, n = of["value"], of["stderr"], of["n"]
    low, high = None, None
    if value is not None and share and n:
        low, high = wilson_interval(value * n, n)
    elif value is not None and error is not None:
        low, high = value - Z_95 * error, value + Z_95 * error
    return {"value": value, "n": n, "low": low, "high": high}


def quality_rows(results: Mapping[str, Any]) -> Iterator[Found]:
    """The one row of a graded benchmark."""
    relative = results["set"].startswith("llava")
    key = "relative" if relative else "score"
    how = f"{'relative to the reference' if relative else '1 to 10'}, judge"
    how += f" {results['settings']['judge']}"
    if results["settings"]["limit"] is not None:
        how += f", the first {results['settings']['limit']} questions"
    roles = {role: model[key] for role, model in results["models"].items()}
    yield results["set"], {"how": how, "scale": "share" if relative else "number", **roles}
