"""The page's charts: trainings, attacks' losses, success against budget; one for all its models.

What the runs logged is read for showing only: a run that is no longer there leaves a gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcb.evaluation.comparison import Column
from mmcb.evaluation.facts import attack_curves, attack_names
from mmcb.evaluation.report import plots
from mmcb.evaluation.rows import attack_title
from mmcb.evaluation.summarize import ATTACKS
from mmcb.pages.charts import Chart
from mmcb.pages.curves import Point
from mmcb.pages.training_charts import training_charts

_THIN = 16
"""Attacks drawn one by one: more are a heavy page and a grey area."""

_TRAINING_CHARTS = ("reroute", "retain", "cosine", "heldout")


@dataclass(frozen=True, slots=True)
class ChartGroup:
    """Charts that belong together, under a title."""

    title: str
    charts: tuple[Chart, ...]


def training_groups(columns: Sequence[Column]) -> list[ChartGroup]:
    """The training curves of each adapter, one group for each run."""
    groups: dict[str, ChartGroup] = {}
    for column in columns:
        training = column.evaluation.results.get("training")
        if column.role == "base" or training is None or training["run"] in groups:
            continue
        prefix = f"training{len(groups)}"
        charts = training_charts(Path(training["run"]), _TRAINING_CHARTS, prefix=prefix)
        if charts:
            groups[training["run"]] = ChartGroup(column.label, tuple(charts))
    return list(groups.values())


def loss_groups(columns: Sequence[Column]) -> list[ChartGroup]:
    """Loss curves of each optimised attack, a chart for each model, on one scale."""
    found = [(column, _curves(column)) for column in columns]
    groups: list[ChartGroup] = []
    for attack in _in_order(name for _, curves in found for name in curves):
        own = [(column, curves[attack]) for column, curves in found if curves.get(attack)]
        tops = [y for _, curves in own for points, _ in curves for _, y in points]
        finite = [y for y in tops if math.isfinite(y)]
        if finite:
            top = 1.04 * max(finite)
            charts = tuple(
                _loss_chart(attack, column, curves, top, name=f"loss-{len(groups)}-{number}")
                for number, (column, curves) in enumerate(own)
            )
            groups.append(ChartGroup(_title(attack), charts))
    return groups


_Curves = Sequence[tuple[Sequence[Point], float]]
"""Each attack's loss curve, and the passes it spent (0 where that was not recorded)."""


def _curves(column: Column) -> Mapping[str, _Curves]:
    attempts = {
        one.item.attempt.id: one.item.attempt
        for one in column.evaluation.judged
        if one.item.attempt.model == column.role
    }
    runs = [Path(run) for run in column.evaluation.results["settings"]["attack"]["runs"]]
    names = attack_names(attempts.values())
    curves: dict[str, list[tuple[Sequence[Point], float]]] = {}
    for id_, points in attack_curves(runs, attempts.values()).items():
        passes = attempts[id_].measures.get("passes", 0.0)
        curves.setdefault(names[id_], []).append((points, passes))
    return curves


def _loss_chart(attack: str, column: Column, curves: _Curves, top: float, *, name: str) -> Chart:
    passes = [spent for _, spent in curves]
    mean = f", {sum(passes) / len(passes):.0f} passes each on average" if any(passes) else ""
    thin = curves[:: -(-len(curves) // _THIN)]
    some = "" if len(thin) == len(curves) else f"{len(thin)} of "
    note = f"{some}{len(curves)} attacks (thin) and their median (thick){mean}"
    svg = plots.loss_chart(
        [points for points, _ in curves],
        thin=[points for points, _ in thin],
        tone=column.tone,
        name=name,
        description=f"Loss of the {attack_title(attack)} on {column.label} over its steps: {note}",
        top=top,
    )
    return Chart(f"Attack on the {column.label} model", svg, note)


def budget_charts(columns: Sequence[Column]) -> list[Chart]:
    """Success against budget, a chart for each attack that has one, all models in it."""
    found = [(column, _budgets(column)) for column in columns]
    charts: list[Chart] = []
    for attack in _in_order(name for _, own in found for name in own):
        budgets = [(column, own[attack]) for column, own in found if attack in own]
        words = ", ".join(f"{column.label}: {_ends(budget)}" for column, budget in budgets)
        losses = {float(budget["stop_loss"]) for _, budget in budgets if "stop_loss" in budget}
        dotted = ""
        if losses:
            least = ", ".join(f"{loss:g}" for loss in sorted(losses))
            dotted = f"; dotted: target loss below {least}"
        svg = plots.budget_chart(
            [(column.tone, budget) for column, budget in budgets],
            name=f"budget-{len(charts)}",
            description=f"Success of the {attack_title(attack)} against passes spent: {words}",
        )
        charts.append(Chart(_title(attack), svg, f"{words}{dotted}"))
    return charts


def _budgets(column: Column) -> Mapping[str, Mapping[str, Any]]:
    return (column.evaluation.results.get("budget") or {}).get(column.role) or {}


def _in_order(names: Iterable[str]) -> list[str]:
    """Attacks in the tables' order, runs of one kind in their own."""
    return sorted(dict.fromkeys(names), key=lambda name: ATTACKS.index(name.partition(": ")[0]))


def _ends(budget: Mapping[str, Any]) -> str:
    """Where a curve ends: `46 of 48 within 100 passes`."""
    broken = budget["succeeded"][-1] if budget["succeeded"] else [budget["spent"], 0]
    return f"{broken[1]:.0f} of {budget['n']} within {broken[0]:.0f} passes"


def _title(attack: str) -> str:
    name = attack_title(attack)
    return name[0].upper() + name[1:]
