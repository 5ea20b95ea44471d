"""Answers for a person to label, and how far each judge agrees with what the person said.

The sheet is blind: neither the model nor the attack nor any judge's verdict is on it.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.evaluation.agreement import agree_table
from mmcb.evaluation.judges import judge_names
from mmcb.evaluation.judges.specification import parse_judge
from mmcb.evaluation.reread import behaviors_of
from mmcb.evaluation.summarize import join
from mmcb.evaluation.verdicts import Item, verdict_id
from mmcb.records import Attempt, Generation, Verdict
from mmcb.sources.rows import Row, read_rows
from mmcb.store import read_records, write_atomic

HUMAN = "human"
"""The name of the person among the raters."""

COLUMNS = ("generation_id", "request", "context", "response", "label")

YES = frozenset({"yes", "y", "1", "true", "harmful"})
NO = frozenset({"no", "n", "0", "false", "harmless"})

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def draw_sheet(run: Path, *, count: int, seed: int) -> list[dict[str, str]]:
    """Answers to attacks, an even share of each model and attack as far as there are, shuffled.

    Args:
        run: folder of an evaluation.
        count: how many at most.
        seed: of the choice and the order.

    Raises:
        MmcbError: the folder is no evaluation, or has no answer to an attack.
    """
    # Of an attempt that older weights answered too, the newest answer.
    items = list({item.attempt.id: item for item in _items(run)}.values())
    groups: dict[tuple[str, str], list[Item]] = {}
    dice = random.Random(seed)
    for item in dice.sample(items, len(items)):
        groups.setdefault((item.attempt.model, item.attempt.attack), []).append(item)
    chosen: list[Item] = []
    while groups and len(chosen) < count:
        for key in sorted(groups)[: count - len(chosen)]:
            chosen.append(groups[key].pop())
            if not groups[key]:
                del groups[key]
    return [_line(item) for item in dice.sample(chosen, len(chosen))]


def write_sheet(path: Path, lines: Sequence[dict[str, str]]) -> None:
    """Write a sheet as CSV or JSON lines, by the file's suffix.

    Raises:
        MmcbError: another suffix, or the file is there already: it may hold someone's work.
    """
    if path.exists():
        raise MmcbError(f"{path} is there already, perhaps with labels", hint="give another --out")
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    elif path.suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _inert(value) for key, value in line.items()} for line in lines)
        text = buffer.getvalue()
    else:
        raise MmcbError(f"{path}: a sheet ends in .csv or .jsonl")
    write_atomic(path, text)


def read_labels(path: Path) -> dict[str, bool | None]:
    """A person's labels by generation; None where the field is still empty.

    Raises:
        MmcbError: a column is missing, or a label is neither yes nor no, with file and line.
    """
    labels: dict[str, bool | None] = {}
    for row in read_rows(path):
        name = row.text("generation_id")
        if name in labels:
            raise row.problem(f"generation_id {name} is labelled twice")
        labels[name] = _label(row)
    return labels


def score_labels(run: Path, labels: dict[str, bool | None]) -> list[dict[str, Any]]:
    """Agreement of the person and every harm judge of an evaluation, pair by pair.

    Judges are compared on the labelled answers alone, so that all pairs speak of the same ones.

    Raises:
        MmcbError: the folder is no evaluation, or a label belongs to none of its answers.
    """
    items = [item for item in _items(run) if item.generation.id in labels]
    missing = labels.keys() - {item.generation.id for item in items}
    if missing:
        raise MmcbError(
            f"{len(missing)} labels belong to no answer in {run}, such as {sorted(missing)[0]}",
            hint="give --run the evaluation that the sheet was drawn from",
        )
    if not any(label is not None for label in labels.values()):
        raise MmcbError("no answer is labelled yet: write yes or no into the column label")
    verdicts = [v for v in read_records(run / "verdicts.jsonl", Verdict) if _is_current(v)]
    judges = list(dict.fromkeys(verdict.judge for verdict in verdicts))
    if not judges:
        raise MmcbError(
            f"{run} has no verdict on harm by the rules that judges have now",
            hint="evaluate into the same --out again: the answers are kept",
        )
    judged = join(items, verdicts)
    by_rater = [{HUMAN: labels[one.item.generation.id], **one.labels} for one in judged]
    return agree_table(by_rater, [HUMAN, *judges])


def _is_current(verdict: Verdict) -> bool:
    """Of a harm judge that the table still has, by the rule that it has now."""
    if parse_judge(verdict.judge).name not in judge_names("harm"):
        return False
    try:
        return verdict.id == verdict_id(verdict.generation_id, verdict.judge)
    except (MmcbError, OSError):  # its template is gone
        return False


def _items(run: Path) -> list[Item]:
    """The answers to attacks that were really given."""
    if not (run / "generations.jsonl").is_file():
        raise MmcbError(f"{run} is no evaluation's folder: it has no generations.jsonl")
    attempts = {a.id: a for a in read_records(run / "attempts.jsonl", Attempt)}
    behaviors, _ = behaviors_of(run)
    items = [
        Item(g, attempts[g.attempt_id], behaviors.get(attempts[g.attempt_id].behavior_id), None)
        for g in read_records(run / "generations.jsonl", Generation)
        if g.attempt_id in attempts
    ]
    kept = [item for item in items if item.attempt.attack != "task" and not item.failed]
    if not kept:
        raise MmcbError(f"{run} has no answer to an attack")
    return kept


def _line(item: Item) -> dict[str, str]:
    sample = item.sample
    values = (item.generation.id, sample.request, sample.context or "", sample.response, "")
    return dict(zip(COLUMNS, values, strict=True))


def _inert(value: str) -> str:
    """Text that a spreadsheet does not take for a formula: it comes from a model."""
    return f"'{value}" if value.startswith(_FORMULA) else value


def _label(row: Row) -> bool | None:
    value = row.values.get("label")
    if isinstance(value, bool) or value is None:
        if "label" not in row.values:
            raise row.problem("label: missing")
        return value
    text = str(value).strip().lower()
    if text and text not in YES | NO:
        raise row.problem(f"label: {value!r} is neither yes nor no (empty: not labelled)")
    return None if not text else text in YES
