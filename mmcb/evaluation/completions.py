"""Answers in HarmBench's layout, so that its tools read ours.

Source: HarmBench (arXiv 2402.04249): `METHOD/EXPERIMENT/test_cases/test_cases.json` holds
{BehaviorID: [test case]}, `completions/MODEL.json` {BehaviorID: [{test_case, generation}]} and
`results/MODEL.json` the same with `label` (1, 0, or -1 where the judge could not be read). A test
case is a prompt, or [picture, prompt]. The experiment and the model are both the role here:
every role has attempts of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcb.evaluation.facts import attack_names
from mmcb.evaluation.summarize import Judged
from mmcb.store import relative_image, resolve_image, write_atomic

METHODS = {
    "direct": "DirectRequest",
    "image_hijack": "MultiModalPGD",
}
"""HarmBench's names of the attacks that it has too; the others keep ours."""


def write_harmbench(
    folder: Path, judged: Iterable[Judged], *, attempts_path: Path, judge: str
) -> None:
    """Write every attack's answers below `folder`, whole files at a time.

    Args:
        folder: HarmBench's `results` folder.
        judged: the answers with their labels; capability items and failed answers are left out,
            as HarmBench has no place for them.
        attempts_path: the file that the pictures' paths are relative to.
        judge: whose labels go into `results/`.
    """
    judged = list(judged)
    names = attack_names(one.item.attempt for one in judged)
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one in judged:
        attempt = one.item.attempt
        if attempt.attack == "task" or one.item.failed:
            continue
        groups.setdefault((_method(one, names[attempt.id]), attempt.model), []).append(one)
    for (method, role), group in groups.items():
        base = folder / method / role
        cases = base / "test_cases" / "test_cases.json"
        entries = [_entry(one, cases.parent, attempts_path) for one in group]
        _write(cases, group, [entry["test_case"] for entry in entries])
        _write(base / "completions" / f"{role}.json", group, entries)
        labelled = [
            {**entry, "label": _label(one.labels.get(judge))}
            for one, entry in zip(group, entries, strict=True)
        ]
        _write(base / "results" / f"{role}.json", group, labelled)


def _method(one: Judged, name: str) -> str:
    """The attack's folder; two runs of one attack with other settings are two methods."""
    attack, _, run = name.partition(": ")
    parts = [METHODS.get(attack, attack), re.sub(r"[^\w.-]+", "-", run).strip("-")]
    return "-".join(filter(None, parts)) + ("_transfer" if one.transferred else "")


def _entry(one: Judged, folder: Path, attempts_path: Path) -> dict[str, Any]:
    attempt = one.item.attempt
    case: str | list[str] = attempt.prompt
    if attempt.image is not None:
        image = resolve_image(attempts_path, attempt.image)
        case = [relative_image(folder / "test_cases.json", image), attempt.prompt]
    return {"test_case": case, "generation": one.item.response}


def _label(label: bool | None) -> int:
    return -1 if label is None else int(label)


def _write(path: Path, group: Sequence[Judged], values: Sequence[Any]) -> None:
    table: Mapping[str, list[Any]] = {one.item.attempt.behavior_id: [] for one in group}
    for one, value in zip(group, values, strict=True):
        table[one.item.attempt.behavior_id].append(value)
    write_atomic(path, json.dumps(table, indent=4) + "\n")
