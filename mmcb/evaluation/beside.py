"""Finished runs of other commands on the same weights, whose numbers stand in the report.

Capability as lm-eval and the graded benchmarks measure it, the checks of an attack's strength, and
evaluations that drew their answers otherwise (best of n).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.capability_runs import Found, lm_eval_rows, quality_rows
from mmcb.evaluation.weights import find_roles, same_weights
from mmcb.generation.config import EngineConfig
from mmcb.run_folder import read_manifest

_ROWS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Found]]] = {
    "evaluation.lm_eval": lm_eval_rows,
    "evaluation.quality": quality_rows,
}


@dataclass(frozen=True, slots=True)
class Beside:
    """What such runs gave, as it stands in results.json."""

    capability: dict[str, Any] = field(default_factory=dict)
    """By benchmark: run, how, scale, and a number by role."""
    checks: list[dict[str, Any]] = field(default_factory=list)
    """Of each run of attacks.check: run, n, verdict, findings."""
    attacks: dict[str, Any] = field(default_factory=dict)
    """Rows of other evaluations, as `rates_by_run` gives them, named after their folder."""


def read_beside(folders: Sequence[Path], *, weights: Mapping[str, str], judge: str) -> Beside:
    """Read finished runs.

    Args:
        folders: runs of evaluation.lm_eval, evaluation.quality, attacks.check or evaluation.
        weights: fingerprints of the models that are evaluated, by role.
        judge: of the headline; another evaluation must have the same.

    Raises:
        MmcbError: a folder holds no such run, it is not finished, of other weights or by another
            judge, or two of them measured the same.
    """
    found = Beside()
    for folder in folders:
        manifest = read_manifest(folder)
        command = str(manifest["command"])
        if manifest["status"] != "complete":
            raise MmcbError(f"--beside {folder}: not finished", hint="run its command again")
        if command in _ROWS:
            results = _read(folder / "results.json")
            _check_weights(folder, results["settings"]["weights"], weights)
            _add_capability(found, folder, _ROWS[command](results), roles=weights.keys())
        elif command == "attacks.check":
            _check_weights(folder, _attacked(manifest["config"]), weights)
            checks = _read(folder / "checks.json")
            kept = {key: checks[key] for key in ("n", "verdict", "findings")}
            found.checks.append({"run": folder.name, **kept})
        elif command == "evaluation":
            results = _read(folder / "results.json")
            _check_weights(folder, results["settings"]["weights"], weights)
            _check_judge(folder, results["settings"]["judges"][0], judge)
            rows = results["runs"].items()
            found.attacks.update({f"{folder.name}: {name}": row for name, row in rows})
        else:
            raise MmcbError(f"--beside {folder}: {command} leaves nothing to put into a report")
    return found


def _add_capability(found: Beside, folder: Path, rows: Iterator[Found], *, roles: Set[str]) -> None:
    for name, row in rows:
        if name in found.capability:
            other = found.capability[name]["run"]
            raise MmcbError(f"--beside: {other} and {folder} both have {name}")
        kept = {key: of for key, of in row.items() if key in ("how", "scale") or key in roles}
        found.capability[name] = {"run": str(folder), **kept}


def _attacked(config: Mapping[str, Any]) -> dict[str, str]:
    model = str(config["model"])
    return dict(find_roles(model, str(config["adapter"]), EngineConfig()).weights)


def _check_weights(folder: Path, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Another adapter's numbers are no word on this one."""
    for role in theirs.keys() & ours.keys():
        if not same_weights(theirs[role], ours[role]):
            raise MmcbError(
                f"--beside {folder}: its {role} model has other weights "
                f"({theirs[role]}, not {ours[role]})",
                hint="run that command again with this --model and --adapter",
            )


def _check_judge(folder: Path, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise MmcbError(
            f"--beside {folder}: judged by {theirs}, not by {ours}",
            hint=f"evaluate it again with --judges {ours}: its answers are kept",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MmcbError(f"--beside {path}: cannot be read: {error}") from None
    return results
