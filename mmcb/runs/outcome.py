"""What came out of a run, in a few words: each kind of run is asked for its own number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.pages.curves import read_json, read_lines, training_curves
from mmcb.runs.found import Run, evaluation_folder

_COSINES = {"heldout_reroute_cosine": "harmful", "heldout_retain_cosine": "benign"}


def outcome(run: Run) -> str:
    """The headline number of a run; its error if it failed, nothing if there is none yet."""
    if run.manifest.get("error"):
        return str(run.manifest["error"]).partition("\n")[0]
    if run.kind in ("evaluation", "suite"):
        return _evaluation(evaluation_folder(run.path))
    if run.kind == "evaluation.lm_eval":
        return _lm_eval(read_json(run.path / "results.json"))
    if run.kind == "evaluation.quality":
        return _quality(read_json(run.path / "results.json"))
    if run.kind == "training":
        return _training(run.path)
    if run.kind.startswith("attacks."):
        return _attack(run.path)
    return ", ".join(f"{count} {name}" for name, count in _lines(run.path))


def _evaluation(path: Path) -> str:
    from mmcb.evaluation.comparison import columns_of, load_evaluation
    from mmcb.evaluation.report.words import strongest

    try:
        return strongest(columns_of([load_evaluation(path)]))
    except MmcbError:
        return ""


def _lm_eval(results: Mapping[str, Any]) -> str:
    """The paper's average where all six tasks were run, else the first metric of each task."""
    average = results.get("paper_average") or {}
    if average and None not in average.values():
        return f"average of the paper's six: {_numbers(average)}"
    parts = []
    for name, task in (results.get("tasks") or {}).items():
        metrics: Mapping[str, Any] = next(iter(task["rows"].values()), {})
        found: Mapping[str, Any] = next(iter(metrics.values()), {})
        roles = {role: found[role]["value"] for role in ("base", "defended") if role in found}
        parts += [f"{name}: {_numbers(roles)}"] if roles else []
    return "; ".join(parts)


def _quality(results: Mapping[str, Any]) -> str:
    models: Mapping[str, Any] = results.get("models") or {}
    scores = {role: model["score"]["value"] for role, model in models.items()}
    return f"{results['benchmark']}: {_numbers(scores)}" if scores else ""


def _numbers(by_role: Mapping[str, float | None]) -> str:
    shown = {role: "-" if value is None else f"{value:.3g}" for role, value in by_role.items()}
    return ", ".join(f"{role} {value}" for role, value in shown.items())


def _training(path: Path) -> str:
    curves = training_curves(path)
    cosines = [
        f"{label} {curves[name][-1][1]:.2f}" for name, label in _COSINES.items() if name in curves
    ]
    steps = max((points[-1][0] for points in curves.values()), default=None)
    parts = [f"{steps:.0f} steps"] if steps is not None else []
    return ", ".join([*parts, *([f"held-out cosine: {', '.join(cosines)}"] if cosines else [])])


def _attack(path: Path) -> str:
    made: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    for line in read_lines(path / "attempts.jsonl"):
        model = str(line.get("model"))
        made[model] += 1
        reached[model] += (line.get("measures") or {}).get("target_reached") == 1.0
    if not reached.total():
        return ", ".join(f"{count} on {model}" for model, count in made.items())
    words = (f"{reached[model]} of {count} on {model}" for model, count in made.items())
    return f"target reached: {', '.join(words)}"


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """How many records each file holds."""
    for file in sorted(path.glob("*.jsonl")):
        if file.stem != "metrics":
            with file.open("rb") as lines:
                yield file.stem.replace("_", " "), sum(1 for _ in lines)
