"""Models side by side: any number of evaluations, and a column for each model that was measured.

Reads what results.json holds and nothing else; a number that an older file lacks was not measured.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.judges import panel_of
from mmcb.evaluation.summarize import ASR_KEYS, Judged
from mmcb.records import Behavior

Rate = Mapping[str, Any]
"""value, n, low, high, as `metrics.Rate.as_dict` writes them."""

Results = Mapping[str, Any]
"""What a results.json holds."""

NOT_MEASURED: Rate = {"value": None, "n": 0, "low": 0.0, "high": 1.0}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation: its numbers and, where a page shows examples, its answers."""

    name: str
    folder: Path
    results: Results
    judged: Sequence[Judged] = ()
    behaviors: Mapping[str, Behavior] = field(default_factory=dict)
    behavior_files: Mapping[str, Path] = field(default_factory=dict)
    """Which file a behavior stands in: its clean image is relative to that."""

    @property
    def attempts_path(self) -> Path:
        """The file that the attempts' images are relative to."""
        return self.folder / "attempts.jsonl"

    @property
    def judges(self) -> list[str]:
        """The judges of harm, the headline's first."""
        return list(self.results["judges"])


@dataclass(frozen=True, slots=True)
class Column:
    """A model in every table: one role of one evaluation."""

    label: str
    tone: str
    """CSS class of its colour: m1, m2, ..."""
    evaluation: Evaluation
    role: str

    def asr(self, judge: str, key: str) -> Rate:
        """Attack success by a judge; `key` is one of `ASR_KEYS`."""
        return self.rate("judges", judge, self.role, key)

    def coherent(self, judge: str, key: str) -> Rate:
        """Share of coherent answers to an attack, by the judge that speaks beside `judge`."""
        return self.rate("coherence", panel_of(judge).coherence, self.role, key)

    def perplexity(self, key: str) -> float | None:
        """Median perplexity of the answers to an attack, where it was measured."""
        return self.rate("perplexity", self.role, key)["value"]

    def any_of_n(self, attack: str) -> Rate:
        """Share of behaviors on which any of several attempts succeeded, with `attempts`."""
        return self.rate("any_of_n", self.role, attack)

    def in_category(self, category: str, attack: str) -> Rate:
        """Attack success in a category of harm."""
        return self.rate("categories", category, self.role, attack)

    def capability(self, task: str) -> Rate:
        """Share of a task's items answered right."""
        return self.rate("models", self.role, "capability", task)

    def benign(self, key: str) -> Rate:
        """`over_refusal` or `coherence_benign`."""
        return self.rate("models", self.role, key)

    def capability_run(self, benchmark: str) -> Mapping[str, Any] | None:
        """What a command of its own measured (`capability_runs`), None if it did not."""
        runs: Mapping[str, Any] = self.evaluation.results.get("capability_runs", {})
        return runs.get(benchmark)

    def rate(self, *path: str) -> Rate:
        """The rate at a path of keys in results.json; not measured where there is none."""
        found: Any = self.evaluation.results
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else NOT_MEASURED


TONES = tuple(f"m{number}" for number in range(1, 9))
"""Colours of the columns; from the ninth on they come again."""


def load_evaluation(folder: Path, *, name: str | None = None) -> Evaluation:
    """Read a finished evaluation's numbers.

    Args:
        folder: its folder, or the results.json in it.
        name: what to call it; the folder's name by default.

    Raises:
        MmcbError: it is none, or is not finished.
    """
    folder = folder.parent if folder.name == "results.json" else folder
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MmcbError(
            f"{folder} is no finished evaluation: it has no results.json",
            hint="`mmcb runs ls` lists the runs; python -m mmcb.evaluation makes an evaluation",
        ) from None
    except (OSError, ValueError) as error:
        raise MmcbError(f"{path} cannot be read: {error}") from None
    if not isinstance(results, dict) or not {"models", "judges", "settings"} <= results.keys():
        raise MmcbError(f"{path}: not an evaluation's results")
    return Evaluation(name or folder.resolve().name, folder, results)


def columns_of(evaluations: Sequence[Evaluation]) -> list[Column]:
    """A column for each model of each evaluation.

    A base model that several evaluations measured, with the same numbers, stands there once.

    Raises:
        MmcbError: the headline numbers are by different judges.
    """
    _check_judges(evaluations)
    pairs: list[tuple[Evaluation, str]] = []
    seen = []
    for evaluation in evaluations:
        for role in evaluation.results["models"]:
            same = _identity(evaluation.results, role)
            if same not in seen:
                seen.append(same)
                pairs.append((evaluation, role))
    labels = _labels(pairs, several=len(evaluations) > 1)
    return [
        Column(label, TONES[index % len(TONES)], evaluation, role)
        for index, (label, (evaluation, role)) in enumerate(zip(labels, pairs, strict=True))
    ]


def common_judges(evaluations: Sequence[Evaluation]) -> list[str]:
    """The judges of harm that every evaluation asked, the headline's first."""
    first, *others = (evaluation.judges for evaluation in evaluations)
    return [judge for judge in first if all(judge in judges for judges in others)]


def measured_attacks(columns: Sequence[Column], judge: str) -> list[str]:
    """The attacks that any of the models was put to, in the table's order."""
    return [key for key in ASR_KEYS if any(column.asr(judge, key)["n"] for column in columns)]


def _check_judges(evaluations: Sequence[Evaluation]) -> None:
    first, *others = evaluations
    for other in others:
        if first.judges[0] != other.judges[0]:
            raise MmcbError(
                f"the headline judge of {first.name} is {first.judges[0]}, that of {other.name} is "
                f"{other.judges[0]}: such numbers do not compare",
                hint=f"evaluate one of them again with --judges {' '.join(first.judges)} and its "
                "own --out: its answers are kept, only the judging is done anew",
            )


def _identity(results: Results, role: str) -> Any:
    """Equal for two columns that show the same weights with the same numbers."""
    weights = (results["settings"].get("weights") or {}).get(role)
    asr = {judge: roles.get(role) for judge, roles in results["judges"].items()}
    return weights, results["models"][role], asr, results["settings"].get("decoding")


def _labels(pairs: Sequence[tuple[Evaluation, str]], *, several: bool) -> list[str]:
    """`base` and `defended` where that is enough; else with the evaluation's name."""
    roles = Counter(role for _, role in pairs)
    labels = []
    for evaluation, role in pairs:
        if not several or (role == "base" and roles[role] == 1):
            labels.append(role)
        else:
            labels.append(evaluation.name if role == "defended" else f"{evaluation.name}, {role}")
    return labels
