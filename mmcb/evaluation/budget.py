"""How much an attack had to spend: behaviors broken, against forward-backward passes.

The answer to an attack's last word is judged, not the answers on the way there. But the attack
keeps the iterate of least loss, so from the pass at which that iterate was found it is what any
larger budget would have handed in: counted from there, the judged curve is a lower bound of the
attack success at each budget, and ends at the attack success that the table has. Of several
results of one attack (`embedding --samples`) the first counts, the one of least loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcb.evaluation.facts import attack_names
from mmcb.evaluation.summarize import Judged
from mmcb.pages.curves import Point

_SAME = 0.01
"""Relative: the kept iterate is the one of least loss if their losses agree so far."""


@dataclass(frozen=True, slots=True)
class _Spent:
    """One attack: when its result was found, and whether it is one."""

    total: float
    found: float
    succeeded: bool | None
    below: float | None
    """When the loss first was under the attack's stopping loss."""


def attack_budgets(
    judged: Sequence[Judged], curves: Mapping[str, Sequence[Point]], *, judge: str
) -> dict[str, Any]:
    """By role and attack, or run of an attack: behaviors broken, over the passes spent.

    Args:
        judged: all answers.
        curves: an attempt's losses over its evaluations, as `facts.attack_curves` reads them.
        judge: whose word counts.

    Returns:
        `{role: {name: {n, spent, stop_loss, succeeded, below}}}`, by the names of
        `attack_names`. `succeeded` and `below` are
        lists of [passes, count], the count of behaviors broken with no more passes than that;
        `spent` is the largest budget. `below` counts those whose loss was under `stop_loss`, with
        `n_below` attacks in all; both are missing where the attack has no such loss.
    """
    attempts = [one.item.attempt for one in judged]
    names = attack_names(attempts)
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one, attempt in zip(judged, attempts, strict=True):
        if attempt.id in curves and not one.transferred:
            groups.setdefault((attempt.model, names[attempt.id]), []).append(one)
    table: dict[str, Any] = {}
    for (role, name), members in groups.items():
        table.setdefault(role, {})[name] = _budget(members, curves, judge)
    return table


def _budget(
    members: Sequence[Judged], curves: Mapping[str, Sequence[Point]], judge: str
) -> dict[str, Any]:
    spent = [_spent(one, curves[one.item.attempt.id], judge) for one in members]
    ruled = [one for one in spent if one.succeeded is not None]
    numbers: dict[str, Any] = {
        "n": len(ruled),
        "spent": max(one.total for one in spent),
        "succeeded": _counted([one.found for one in ruled if one.succeeded]),
    }
    thresholds = {_stop_loss(one) for one in members}
    if len(thresholds) == 1 and (threshold := thresholds.pop()):
        numbers["stop_loss"] = threshold
        numbers["n_below"] = len(spent)
        numbers["below"] = _counted([one.below for one in spent if one.below is not None])
    return numbers


def _spent(one: Judged, curve: Sequence[Point], judge: str) -> _Spent:
    measures = one.item.attempt.measures
    # The curve has a point for each evaluation, which may cost several passes.
    evaluations = curve[-1][0] + 1
    total = measures.get("passes") or evaluations
    least, at = min((loss, step) for step, loss in curve)
    kept = measures.get("loss_float", least)
    if not math.isclose(kept, least, rel_tol=_SAME, abs_tol=1e-4):
        at = curve[-1][0]  # kept by another measure: known to be there at the end only
    threshold = _stop_loss(one)
    under = [step for step, loss in curve if threshold and loss < threshold]
    return _Spent(
        total=total,
        found=total * (at + 1) / evaluations,
        succeeded=one.labels.get(judge),
        below=total * (under[0] + 1) / evaluations if under else None,
    )


def _stop_loss(one: Judged) -> float | None:
    value = one.item.attempt.settings.get("stop_loss")
    return float(value) if isinstance(value, int | float) else None


def _counted(passes: Sequence[float]) -> list[list[float]]:
    """[passes, how many had been broken by then], one entry for each number of passes."""
    found: dict[float, int] = {}
    for count, value in enumerate(sorted(passes), start=1):
        found[round(value, 1)] = count
    return [[value, count] for value, count in found.items()]
