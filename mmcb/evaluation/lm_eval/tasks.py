"""The tasks of a run, loaded before any model: what cannot be had is said at once, by name."""

from __future__ import annotations

import difflib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mmcb.curation.prompts import COLUMNS
from mmcb.errors import MmcbError
from mmcb.evaluation.contamination.check import Item
from mmcb.evaluation.lm_eval.config import LmEvalConfig, split_task
from mmcb.evaluation.lm_eval.mmlu import mmlu_group
from mmcb.log import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task or group of lm-eval with its data."""

    name: str
    shots: int | None
    """None: the task's own."""
    source: str
    """Where its data come from."""
    top: list[Any]
    """What lm-eval is given: the group, or the tasks of a tag."""
    leaves: dict[str, Any]
    """The tasks themselves, by name."""

    @property
    def sees(self) -> bool:
        """Whether it shows pictures."""
        return any(getattr(leaf, "MULTIMODAL", False) for leaf in self.leaves.values())

    def items(self, limit: int | None) -> Iterator[Item]:
        """The items of each task as they are asked, without examples; the bare question beside."""
        for name, leaf in self.leaves.items():
            for number, doc in enumerate(islice(leaf.eval_docs, limit)):
                bare = [str(doc[column]) for column in COLUMNS if isinstance(doc.get(column), str)]
                yield Item(f"{name}/{number}", str(leaf.doc_to_text(doc)), also=tuple(bare[:1]))


def require_lm_eval() -> None:
    """Say in a sentence that lm-eval is not installed.

    Raises:
        MmcbError: it is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MmcbError("this needs lm-eval", hint="pip install 'mmcb[eval]'")
    # It tells every step of its own; what matters is said here.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def load_tasks(config: LmEvalConfig, *, sees: bool) -> tuple[Any, list[LoadedTask]]:
    """lm-eval's task manager, and every task of the settings with its data.

    Args:
        config: the settings.
        sees: whether the model takes pictures.

    Raises:
        MmcbError: an unknown task, a task file that is none, data that cannot be had, a task with
            pictures for a model that takes none; each by the task's name.
    """
    from lm_eval.tasks import TaskManager

    if config.include_path is not None and not config.include_path.is_dir():
        raise MmcbError(f"--include-path {config.include_path}: no such folder")
    manager = TaskManager(include_path=config.include_path)
    names = [split_task(text) for text in config.tasks]
    for name, _ in names:
        _check_known(name, manager)
    if config.mmlu_csv is not None and "mmlu" not in dict(names):
        raise MmcbError("--mmlu-csv is given, but the task mmlu is not in --tasks")
    loaded = [_load(name, shots, manager, config) for name, shots in names]
    for task in loaded:
        if task.sees and not sees:
            raise MmcbError(
                f"lm-eval task {task.name} shows pictures, and {config.model} takes none",
                hint="leave it out of --tasks",
            )
    return manager, loaded


def _check_known(name: str, manager: Any) -> None:
    if name not in manager.all_tasks:
        close = difflib.get_close_matches(name, manager.all_tasks, n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise MmcbError(
            f"lm-eval has no task {name}",
            hint=f"{guess}your own task files: --include-path FOLDER",
        )


def _load(name: str, shots: int | None, manager: Any, config: LmEvalConfig) -> LoadedTask:
    from_csv = name == "mmlu" and config.mmlu_csv is not None
    _log.info("lm-eval task %s: reading its data", name)
    try:
        if from_csv:
            assert config.mmlu_csv is not None
            spec: Any = mmlu_group(config.mmlu_csv, manager, shots=shots)
        else:
            spec = name
        found = manager.load([spec])
    except MmcbError:
        raise
    except Exception as error:
        # Whatever a hub, a cache or a task's own code may raise: the task is what to name.
        raise MmcbError(
            f"lm-eval task {name}: its data cannot be had: {_first_line(error)}",
            hint="get them while there is a network (they stay in the cache of `datasets`),"
            " or leave the task out of --tasks",
        ) from error
    leaves = dict(found["tasks"])
    top = [found["groups"][name]] if name in found["groups"] else list(leaves.values())
    source = str(config.mmlu_csv) if from_csv else _source(leaves, config.include_path)
    return LoadedTask(name, shots, source, top, leaves)


def _source(leaves: dict[str, Any], include_path: Path | None) -> str:
    places = {str(leaf.config.dataset_path) for leaf in leaves.values()}
    return ", ".join(sorted(places)) + ("" if include_path is None else f" (with {include_path})")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
