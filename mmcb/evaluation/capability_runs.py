"""What lm-eval, MT-Bench and LLaVA-Bench gave for the same weights: for the evaluation's report.

Reads the results.json of `evaluation.lm_eval` and `evaluation.quality`; their commands measure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.lm_eval.config import PAPER_METRICS
from mmcb.evaluation.metrics import Z_95, wilson_interval

PAPER_AVERAGE = "paper_average"
"""The row that is the mean of the paper's six."""

_ON_SERVER = "server:"

Found = tuple[str, dict[str, Any]]


def read_capability_runs(folders: Sequence[Path], *, weights: Mapping[str, str]) -> dict[str, Any]:
    """The numbers of finished runs, by the benchmark's name.

    Args:
        folders: runs of evaluation.lm_eval and evaluation.quality.
        weights: fingerprints of the models that are evaluated, by role.

    Returns:
        `{name: {run, how, scale, role: {value, n, low, high}}}`; scale is "share" (of 1) or
        "number", low and high are the 95 % interval, null where the run has no standard error.

    Raises:
        MmcbError: a folder holds no such run, or one of other weights, or two of them measured the
            same.
    """
    table: dict[str, Any] = {}
    for folder in folders:
        results = _read(folder)
        _check_weights(folder, results["settings"]["weights"], weights)
        rows = _lm_eval(results) if "tasks" in results else _quality(results)
        for name, row in rows:
            if name in table:
                raise MmcbError(f"--capability-runs: {table[name]['run']} and {folder} have {name}")
            roles = {role: found for role, found in row.items() if role not in ("how", "scale")}
            kept = {role: found for role, found in roles.items() if role in weights}
            table[name] = {"run": str(folder), "how": row["how"], "scale": row["scale"], **kept}
    return table


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MmcbError(
            f"--capability-runs {folder}: no finished run: {error}",
            hint="python -m mmcb.evaluation.lm_eval or evaluation.quality makes one",
        ) from None
    if not isinstance(results, dict) or not ({"tasks", "set"} & results.keys()):
        raise MmcbError(f"{path}: not the results of evaluation.lm_eval or evaluation.quality")
    return results


def _check_weights(folder: Path, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Another adapter's capability is no word on this one; what a server has, it does not tell."""
    for role in theirs.keys() & ours.keys():
        told = not any(of[role].startswith(_ON_SERVER) for of in (theirs, ours))
        if told and theirs[role] != ours[role]:
            raise MmcbError(
                f"--capability-runs {folder}: its {role} model has other weights "
                f"({theirs[role]}, not {ours[role]})",
                hint="run that command again with this --model and --adapter",
            )


def _lm_eval(results: Mapping[str, Any]) -> Iterator[Found]:
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


def _quality(results: Mapping[str, Any]) -> Iterator[Found]:
    relative = results["set"].startswith("llava")
    key = "relative" if relative else "score"
    how = f"{'relative to the reference' if relative else '1 to 10'}, judge"
    how += f" {results['settings']['judge']}"
    if results["settings"]["limit"] is not None:
        how += f", the first {results['settings']['limit']} questions"
    roles = {role: model[key] for role, model in results["models"].items()}
    yield results["set"], {"how": how, "scale": "share" if relative else "number", **roles}
