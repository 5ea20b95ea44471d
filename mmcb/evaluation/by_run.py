"""Attack success of each run: two hijacks with other settings are two attacks.

The headline counts attacks by their kind. Here every folder of `--hijacks` stands for itself, and
so does every attack in words and every file of test cases, by trained and held-out categories, with
what it spent. Pure: records in, plain JSON values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from mmcb.evaluation.inputs import RUN
from mmcb.evaluation.metrics import behavior_rate
from mmcb.evaluation.summarize import Judged

SPLITS = ("train", "heldout")
TRANSFER = "transfer"
"""Beside the roles: what was made against the base model, shown to the defended one."""

_MEASURES = ("passes", "loss_start", "loss_float")


def rates_by_run(judged: Iterable[Judged], *, judge: str) -> dict[str, Any]:
    """Rates of every run and every attack in words, in the order they came.

    Args:
        judged: all answers.
        judge: whose word counts.

    Returns:
        `{run: {attack, train: {role: cell}, heldout: {role: cell}}}`. A role is "base", "defended"
        or "transfer"; a cell is a rate (value, n, low, high) over behaviors, with `any`, the
        rate of those of which any attempt succeeded, where some behavior has several, and
        the means of `passes`, `loss_start` and `loss_float` where the run recorded them.
    """
    groups: dict[str, dict[str, dict[str, list[Judged]]]] = {}
    attacks: dict[str, str] = {}
    for one in judged:
        attempt = one.item.attempt
        if attempt.attack == "task":
            continue
        # Test cases by another method are another attack.
        run = str(attempt.settings.get(RUN) or attempt.settings.get("cases") or attempt.attack)
        attacks.setdefault(run, attempt.attack)
        role = TRANSFER if one.transferred else attempt.model
        splits = groups.setdefault(run, {split: {} for split in SPLITS})
        splits[attempt.split].setdefault(role, []).append(one)
    return {
        run: {
            "attack": attacks[run],
            **{
                split: {role: _cell(members, judge) for role, members in by_role.items()}
                for split, by_role in splits.items()
            },
        }
        for run, splits in groups.items()
    }


def _cell(members: Sequence[Judged], judge: str) -> dict[str, Any]:
    labels = [one.verdict(judge) for one in members]
    cell: dict[str, Any] = dict(behavior_rate(labels).as_dict())
    if cell["n"] < sum(label is not None for _, label in labels):
        cell["any"] = behavior_rate(labels, of=any).as_dict()
    for name in _MEASURES:
        values = [m[name] for one in members if name in (m := one.item.attempt.measures)]
        if values:
            cell[name] = fmean(values)
    return cell
