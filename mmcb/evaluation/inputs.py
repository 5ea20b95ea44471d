"""What an evaluation is made of: records from files, and the attempts made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mmcb.attacks.attempts import AttemptFile
from mmcb.attacks.static import read_cases, repeated
from mmcb.errors import MmcbError
from mmcb.evaluation.capability import task_attempts
from mmcb.evaluation.config import EvaluationConfig
from mmcb.evaluation.words import made_of_words
from mmcb.generation.factory import named_family
from mmcb.log import get_logger
from mmcb.records import Attempt, Behavior, Record, Task
from mmcb.store import read_distinct, read_records, record_id, relative_image, resolve_image

RUN = "run"
"""The setting of an attempt that names the run it comes from: the evaluation's own key."""

_log = get_logger(__name__)

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(slots=True)
class Inputs:
    """Everything to be put to the models."""

    attempts: list[Attempt]
    behaviors: dict[str, Behavior] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    behavior_files: dict[str, Path] = field(default_factory=dict)
    """Which file a behavior stands in: its clean image is relative to that."""
    skipped: dict[str, int] = field(default_factory=dict)
    """What was left out, by reason."""


def read_inputs(config: EvaluationConfig, *, roles: Sequence[str], attempts_path: Path) -> Inputs:
    """Read the files a configuration names and make the attempts of each role.

    Raises:
        MmcbError: A file is missing or holds a bad line, or there is nothing to evaluate.
    """
    if config.samples > 1 and config.temperature == 0:
        raise MmcbError(
            f"--samples {config.samples} greedy answers would all be the same",
            hint="add --temperature 0.7",
        )
    family = named_family(config.engine, config.model)
    text_only = family is not None and family.kind == "llm"
    inputs = Inputs(attempts=[])
    for path in (config.behaviors, config.text_behaviors):
        if path is not None:
            _add_behaviors(inputs, path, config, roles, attempts_path, text_only=text_only)
    if config.tasks is not None:
        _add_tasks(inputs, config.tasks, config, roles, attempts_path, text_only=text_only)
    for folder, name in _run_names(config.hijacks).items():
        _add_hijacks(inputs, folder, config, roles, attempts_path, run=name)
    # The same case in two files, or a run that is another's beginning: the same attempt.
    inputs.attempts = list({attempt.id: attempt for attempt in inputs.attempts}.values())
    _check_cases(inputs, config.cases)
    if not inputs.attempts:
        raise MmcbError("nothing to evaluate", hint="give --behaviors, --tasks or --hijacks a file")
    return inputs


def _read(path: Path, type_: type[RecordT], limit: int | None) -> list[RecordT]:
    if not path.is_file():
        raise MmcbError(
            f"there is no {type_.__name__.lower()} file {path}",
            hint="`python -m mmcb.miniature` writes data/miniature with all of them",
        )
    records = read_distinct(path, type_)
    if not records:
        raise MmcbError(f"{path} holds no {type_.__name__.lower()}")
    return records[:limit]


def _check_cases(inputs: Inputs, files: Iterable[Path]) -> None:
    """Cases of none of the behaviors are the wrong file, and would go unnoticed."""
    for path in files:
        cases = read_cases(path)
        if inputs.behaviors and not cases.keys() & inputs.behaviors.keys():
            raise MmcbError(
                f"{path}: none of its {len(cases)} behaviors is in the files of behaviors",
                hint="a case belongs to the behavior of the same id",
            )


def _run_names(folders: Iterable[Path]) -> dict[Path, str]:
    """Each run once, called as its folder; by the whole path where two are called the same."""
    unique = {folder.resolve(): folder for folder in reversed(list(folders))}
    runs = list(reversed(unique.values()))
    names = Counter(folder.name for folder in runs)
    return {run: run.name if names[run.name] == 1 else str(run) for run in runs}


def _add_behaviors(
    inputs: Inputs,
    path: Path,
    config: EvaluationConfig,
    roles: Sequence[str],
    attempts_path: Path,
    *,
    text_only: bool,
) -> None:
    behaviors = _read(path, Behavior, config.limit)
    kept = [b for b in behaviors if b.image is None or not text_only]
    _skip(inputs, "behaviors with an image, for a text-only model", len(behaviors) - len(kept))
    for behavior in kept:
        if behavior.id in inputs.behaviors:
            other = inputs.behavior_files[behavior.id]
            raise MmcbError(f"id {behavior.id} stands twice: in {other} and in {path}")
        inputs.behaviors[behavior.id] = behavior
        inputs.behavior_files[behavior.id] = path
    made = [
        attempt
        for role in roles
        for attempt in made_of_words(config, kept, to=AttemptFile(attempts_path, role, path))
    ]
    inputs.attempts += repeated(made, config.samples)


def _add_tasks(
    inputs: Inputs,
    path: Path,
    config: EvaluationConfig,
    roles: Sequence[str],
    attempts_path: Path,
    *,
    text_only: bool,
) -> None:
    tasks = _read(path, Task, None)
    kept = [task for task in tasks if task.image is None or not text_only]
    _skip(inputs, "tasks with an image, for a text-only model", len(tasks) - len(kept))
    if config.limit is not None:
        kept = _first_of_each(kept, config.limit)
    inputs.tasks.update({task.id: task for task in kept})
    for role in roles:
        inputs.attempts += task_attempts(
            kept,
            model=role,
            tasks_path=path,
            attempts_path=attempts_path,
        )


def _first_of_each(tasks: Iterable[Task], limit: int) -> list[Task]:
    seen: dict[str, int] = {}
    kept = []
    for task in tasks:
        seen[task.task] = seen.get(task.task, 0) + 1
        if seen[task.task] <= limit:
            kept.append(task)
    return kept


def _add_hijacks(
    inputs: Inputs,
    folder: Path,
    config: EvaluationConfig,
    roles: Sequence[str],
    attempts_path: Path,
    *,
    run: str,
) -> None:
    source = folder / "attempts.jsonl"
    if not source.is_file():
        raise MmcbError(
            f"{folder} is not the folder of an image-hijack run: it has no attempts.jsonl",
            hint=f"python -m mmcb.attacks.image_hijack --model {config.model}",
        )
    found = [a for a in read_records(source, Attempt) if a.model in roles]
    unknown = sum(a.behavior_id not in inputs.behaviors for a in found)
    if unknown:
        _log.warning(
            "%s: %d attempts on behaviors that are in no --behaviors file; judged by the "
            "prompt in the attempt",
            folder,
            unknown,
        )
    attempts = [_rebase(attempt, source, attempts_path, run=run) for attempt in found]
    inputs.attempts += attempts
    if config.transfer and "defended" in roles:
        inputs.attempts += [_transfer(a) for a in attempts if a.model == "base"]


def _rebase(attempt: Attempt, source: Path, attempts_path: Path, *, run: str) -> Attempt:
    """The attempt with its files' paths relative to the evaluation's, and its run's name."""
    moved = {
        name: relative_image(attempts_path, resolve_image(source, file))
        for name in ("image", "embeddings", "steering")
        if (file := getattr(attempt, name)) is not None
    }
    return attempt.model_copy(update={**moved, "settings": {**attempt.settings, RUN: run}})


def _transfer(attempt: Attempt) -> Attempt:
    """The same image, shown to the defended model.

    If images made against the base model work better on the defended one than its own, the
    attack on the defended model was held up by masked gradients, not by the defence.
    """
    return attempt.model_copy(
        update={
            "id": record_id("transfer", attempt.id),
            "model": "defended",
            "settings": {**attempt.settings, "transferred_from": "base"},
        }
    )


def _skip(inputs: Inputs, reason: str, count: int) -> None:
    if count:
        inputs.skipped[reason] = inputs.skipped.get(reason, 0) + count
