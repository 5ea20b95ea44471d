"""What the runs before the evaluation left on disk: training curves, attack curves, settings.

These files are read for showing only, so a missing or unfamiliar one leaves a gap in the report
and never stops an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcb.config import format_fraction
from mmcb.evaluation.inputs import RUN
from mmcb.pages.curves import Point, read_json, read_lines, training_curves
from mmcb.records import Attempt
from mmcb.run_folder import read_manifest

MAX_VALUES = 4
"""A setting with more different values than this belongs to the single attack, not to the run."""


_OF_ONE_ATTEMPT = frozenset({RUN, "source", "template", "case", "sample", "script"})


def circumstances(run: Path) -> dict[str, Any]:
    """The software that a run was made with, as its manifest has it."""
    manifest = read_manifest(run)
    return {key: manifest[key] for key in ("versions", "python", "platform", "git")}


def training_facts(run: Path | None) -> dict[str, Any] | None:
    """The summary of a training run for results.json; None without a run."""
    if run is None:
        return None
    manifest = read_json(run / "manifest.json")
    curves = training_curves(run)
    return {
        "run": str(run),
        "model": manifest.get("config", {}).get("model"),
        "seed": manifest.get("config", {}).get("seed"),
        "recipe": read_json(run / "recipe.json") or manifest.get("config", {}),
        "started": manifest.get("started"),
        "finished": manifest.get("finished"),
        "versions": manifest.get("versions"),
        "git": manifest.get("git"),
        "last_step": max((points[-1][0] for points in curves.values()), default=None),
        "first": {name: points[0][1] for name, points in sorted(curves.items())},
        "last": {name: points[-1][1] for name, points in sorted(curves.items())},
    }


def attack_facts(hijacks: Sequence[Path], attempts: Iterable[Attempt]) -> dict[str, Any]:
    """Each attack's settings by model: epsilon, steps and whatever else its runs recorded.

    A setting on which the attempts differ is given as the list of its values. `settings` has an
    entry for each name that `attack_names` gives.
    """
    own = [attempt for attempt in attempts if attempt.attack != "task"]
    names = attack_names(own)
    values: dict[str, dict[str, dict[str, set[Any]]]] = {}
    for attempt in own:
        if "transferred_from" not in attempt.settings:
            found = values.setdefault(names[attempt.id], {}).setdefault(attempt.model, {})
            for key, value in attempt.settings.items():
                if key not in _OF_ONE_ATTEMPT:
                    found.setdefault(key, set()).add(value)
    return {
        "runs": [str(folder) for folder in hijacks],
        "adapters": list(dict.fromkeys(filter(None, map(attacked_adapter, hijacks)))),
        "unfinished": [str(folder) for folder in hijacks if is_unfinished(folder)],
        "settings": {
            name: {role: _few(found) for role, found in sorted(by_role.items())}
            for name, by_role in sorted(values.items())
            if any(by_role.values())
        },
    }


def attack_names(attempts: Iterable[Attempt]) -> dict[str, str]:
    """What each attempt belongs to, by its id: two runs with other settings are two attacks.

    The attack's name where the attempts hold one run of it, so that evaluations compare whatever
    their runs are called; else the name and the run, as `image_hijack: patch`.
    """
    own = [(attempt.id, attempt.attack, attempt.settings.get(RUN)) for attempt in attempts]
    runs: dict[str, set[Any]] = {}
    for _, attack, run in own:
        runs.setdefault(attack, set()).add(run)
    return {
        id_: attack if run is None or len(runs[attack]) == 1 else f"{attack}: {run}"
        for id_, attack, run in own
    }


def _few(values: Mapping[str, set[Any]]) -> dict[str, Any]:
    return {
        key: _one_or_all(found) for key, found in sorted(values.items()) if len(found) <= MAX_VALUES
    }


def attacked_adapter(hijack_run: Path) -> str | None:
    """The adapter that a run attacked, None if it attacked the base model alone."""
    inputs = read_json(hijack_run / "manifest.json").get("inputs", {})
    adapter = inputs.get("adapter", {}) if isinstance(inputs, dict) else {}
    return str(adapter["path"]) if isinstance(adapter, dict) and "path" in adapter else None


def is_unfinished(run: Path) -> bool:
    """Whether a run was broken off, or still goes on: it has only some of its attempts."""
    return read_json(run / "manifest.json").get("status", "complete") != "complete"


def _one_or_all(values: set[Any]) -> Any:
    return values.pop() if len(values) == 1 else sorted(values, key=str)


def show_epsilon(value: object) -> str:
    """`32/255` from a number or from what is already text."""
    return format_fraction(value) if isinstance(value, float) else str(value)


def attack_curves(hijacks: Sequence[Path], attempts: Iterable[Attempt]) -> dict[str, list[Point]]:
    """The loss of each attack over its steps, by the id of its attempt.

    Reads each run's curves.jsonl, a line an attack: {id: the attempt's, losses: [...]}, the loss
    after 0, 1, 2, ... steps; null where it was not a finite number.
    """
    known = {attempt.id for attempt in attempts}
    curves: dict[str, list[Point]] = {}
    for folder in hijacks:
        for line in read_lines(folder / "curves.jsonl"):
            losses = line.get("losses")
            if line.get("id") in known and isinstance(losses, list):
                points = [(float(x), float(y)) for x, y in enumerate(losses) if y is not None]
                curves[line["id"]] = points
    return {name: points for name, points in curves.items() if points}
