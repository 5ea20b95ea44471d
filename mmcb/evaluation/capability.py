"""Capability and over-refusal: benign items as attempts, so that one path serves them all.

A capability item goes through the same generation and the same files as an attack; only the
judges that speak about it differ (correct? coherent? refused?).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmcb.records import Attempt, Task
from mmcb.store import record_id, relative_image, resolve_image

CAPABILITY_TASKS = ("caption", "vqa", "fact", "benign_howto")
"""Items with a right answer; each is one column of the capability table."""

OVER_REFUSAL_TASKS = ("over_refusal", "benign_howto")
"""Benign items that a careful model could mistake for harmful ones: refusing them is a fault."""


def task_attempts(
    tasks: Iterable[Task],
    *,
    model: str,
    tasks_path: Path,
    attempts_path: Path,
) -> list[Attempt]:
    """One attempt for each item, its image re-based from the items' file to the attempts'."""
    return [
        Attempt(
            id=record_id("task", task.id, model),
            behavior_id=task.id,
            attack="task",
            model=model,
            # Capability items are never trained on; whoever writes the file answers for that.
            split="heldout",
            category=task.task,
            prompt=task.prompt,
            image=None
            if task.image is None
            else relative_image(attempts_path, resolve_image(tasks_path, task.image)),
        )
        for task in tasks
    ]
