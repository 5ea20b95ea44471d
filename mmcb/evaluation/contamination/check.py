"""Evaluation sets against an adapter's training data: the `contamination` of a results.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmcb.evaluation.contamination.sentences import NO_ADAPTER, describe
from mmcb.evaluation.contamination.training import NEAR, TrainingData, read_training_data
from mmcb.evaluation.weights import training_run_of
from mmcb.log import get_logger
from mmcb.store import file_hash

ITEMS_NAMED = 10
"""So many ids of found items stand in the results."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """Something a model is asked: its id, its words, its picture, and other wordings of it."""

    id: str
    text: str
    picture: Path | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """What is compared as one: the items of a file, of a kind, of a task."""

    items: Sequence[Item]
    file: Path | None = None
    """The file they stand in, if it is one."""


def check_contamination(adapter: Path | None, sets: Mapping[str, EvaluationSet]) -> dict[str, Any]:
    """Which of these sets the adapter was trained on, as results.json has it.

    An item counts as found when its request, case and punctuation aside, was trained on ("exact")
    or one that shares most of its word triples ("near"). Where both have pictures they must be the
    same, byte for byte. A set is flagged when an item is found, or when its file was trained on.

    Args:
        adapter: the adapter that is measured; None for none.
        sets: by the name they have in the report.

    Returns:
        `status` is "checked", "partly checked" (some training files cannot be read) or "not
        checked", then with a `reason`.
    """
    run = training_run_of(adapter)
    if run is None:
        reason = (
            NO_ADAPTER
            if adapter is None
            else f"{adapter} lies in no training run's folder, so its training data are unknown"
        )
        return {"status": "not checked", "reason": reason, "sets": {}}
    training = read_training_data(run)
    if not training.requests:
        why = "; ".join(f"{name} {reason}" for name, reason in training.unread.items())
        return {
            "status": "not checked",
            "reason": f"no training data of {run} can be read: {why or 'it names none'}",
            "sets": {name: {"flagged": _same_file(of, training)} for name, of in sets.items()},
        }
    found = {name: _check(of, training) for name, of in sets.items()}
    for name, of in found.items():
        if of["flagged"]:
            _log.warning("%s was trained on: %s", name, describe(of))
    return {
        "status": "partly checked" if training.unread else "checked",
        "reason": "; ".join(f"{k} {v}" for k, v in training.unread.items()) or None,
        "training": training.requests,
        "near_duplicates": NEAR,
        "sets": found,
    }


def _same_file(of: EvaluationSet, training: TrainingData) -> bool:
    return of.file is not None and of.file.is_file() and file_hash(of.file) in training.file_hashes


def _check(of: EvaluationSet, training: TrainingData) -> dict[str, Any]:
    exact: list[str] = []
    near: list[str] = []
    for item in of.items:
        found = [_found(text, item.picture, training) for text in (item.text, *item.also)]
        if "exact" in found:
            exact.append(item.id)
        elif "near" in found:
            near.append(item.id)
    same_file = _same_file(of, training)
    return {
        "n": len(of.items),
        "exact": len(exact),
        "near": len(near),
        "same_file": same_file,
        "flagged": bool(exact or near or same_file),
        "items": [*exact, *near][:ITEMS_NAMED],
    }


def _found(text: str, picture: Path | None, training: TrainingData) -> str | None:
    like = training.like(text)
    if like is None or not _picture_fits(picture, like[1]):
        return None
    return "exact" if like[0] else "near"


def _picture_fits(picture: Path | None, trained: Iterable[Path | None]) -> bool:
    """Whether a request about this picture is one of those that were trained on.

    "What is in the picture?" about another picture is another question; a request without a
    picture is the same whatever it stood beside.
    """
    trained = set(trained)
    if picture is None or None in trained:
        return True
    own = _content(picture)
    return own is not None and any(_content(other) == own for other in trained if other)


@cache
def _content(picture: Path) -> str | None:
    return file_hash(picture) if picture.is_file() else None
