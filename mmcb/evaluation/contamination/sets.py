"""The sets of an evaluation: each file of behaviors, and each kind of task in the tasks' file."""

from __future__ import annotations

from pathlib import Path

from mmcb.evaluation.contamination.check import EvaluationSet, Item
from mmcb.evaluation.inputs import Inputs
from mmcb.records import Behavior, Task
from mmcb.store import resolve_image


def sets_of(inputs: Inputs, tasks_path: Path | None) -> dict[str, EvaluationSet]:
    """What an evaluation puts to the models, by file and kind of task."""
    files: dict[Path, list[Item]] = {}
    for name, behavior in inputs.behaviors.items():
        path = inputs.behavior_files[name]
        files.setdefault(path, []).append(_item(behavior, path))
    sets = {str(path): EvaluationSet(items, path) for path, items in files.items()}
    if tasks_path is not None:
        kinds: dict[str, list[Item]] = {}
        for task in inputs.tasks.values():
            kinds.setdefault(task.task, []).append(_item(task, tasks_path))
        for kind, items in kinds.items():
            sets[f"{tasks_path}, {kind}"] = EvaluationSet(items, tasks_path)
    return sets


def _item(record: Behavior | Task, path: Path) -> Item:
    image = record.image
    return Item(record.id, record.prompt, None if image is None else resolve_image(path, image))
