"""What came out of a run, in a few words: each kind of run is asked for its own number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

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
        return _lm_eval(run.path)
    if run.kind == "evaluation.quality":
        return _quality(run.path)
    if run.kind == "training":
        return _training(run.path)
    if run.kind.startswith("attacks."):
        return _attack(run.path)
    return ", ".join(f"{count} {name}" for name, count in _lines(run.path))


def _evaluation(path: Path) -> str:
    from mmcb.evaluation.comparison import columns_of, load_evaluation
    from mmcb.evaluation.report.headline import strongest

    try:
        return strongest(columns_of([load_evaluation(path)]))
    except MmcbError:
        return ""


def _lm_eval(path: Path) -> str:
    from mmcb.evaluation.lm_eval.summary import headline

    results = read_json(path / "results.json")
    return headline(results) if results else ""


def _quality(path: Path) -> str:
    from mmcb.evaluation.quality.summary import headline

    results = read_json(path / "results.json")
    return headline(results) if results else ""


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
    passes: Counter[str] = Counter()
    for line in read_lines(path / "attempts.jsonl"):
        model, measures = str(line.get("model")), line.get("measures") or {}
        made[model] += 1
        reached[model] += measures.get("target_reached") == 1.0
        passes[model] += measures.get("passes", 0.0)
    spent = {
        model: f" ({passes[model] / count:.0f} passes each)" if passes[model] else ""
        for model, count in made.items()
    }
    if not reached.total():
        return ", ".join(f"{count} on {model}{spent[model]}" for model, count in made.items())
    words = (f"{reached[m]} of {count} on {m}{spent[m]}" for m, count in made.items())
    return f"target reached: {', '.join(words)}"


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """How many records each file holds."""
    for file in sorted(path.glob("*.jsonl")):
        if file.stem != "metrics":
            with file.open("rb") as lines:
                yield file.stem.replace("_", " "), sum(1 for _ in lines)
