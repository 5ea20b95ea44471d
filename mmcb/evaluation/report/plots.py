"""The attacks' charts: every attack's loss over its steps, and success against budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from mmcb.evaluation.comparison import TONES
from mmcb.pages.charts import MODEL_COLOURS, draw_chart
from mmcb.pages.curves import Point

_COLOURS = dict(zip(TONES, MODEL_COLOURS, strict=True))
_WIDE_RANGE = 30
"""Budgets that span more than this factor are drawn on a logarithmic axis."""


def loss_chart(
    curves: Sequence[Sequence[Point]],
    *,
    thin: Sequence[Sequence[Point]],
    tone: str,
    name: str,
    description: str,
    top: float,
) -> Markup:
    """The loss of some attacks over their steps as thin lines, the median of all as a thick one."""
    colour = _COLOURS[tone]

    def draw(axes: Any) -> None:
        for points in thin:
            xs, ys = np.array(points, dtype=float).T
            axes.plot(xs, ys, color=colour, linewidth=0.7, alpha=0.28)
        xs, median = median_curve(curves)
        axes.plot(xs, median, color=colour, linewidth=2.4)
        axes.set_ylim(0, top)
        axes.set_xlabel("attack step")
        axes.set_ylabel("target loss (nats a token)")

    return draw_chart(draw, name=name, description=description)


def median_curve(curves: Sequence[Sequence[Point]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and at each the median over the curves.

    A curve that has ended (the attack stopped early) keeps its last value: leaving it out would
    let the median rise as the easy ones finish.
    """
    steps = np.unique([x for points in curves for x, _ in points])
    values = [np.interp(steps, *np.array(points, dtype=float).T) for points in curves]
    return steps, np.median(values, axis=0)


def budget_chart(
    budgets: Sequence[tuple[str, Mapping[str, Any]]], *, name: str, description: str
) -> Markup:
    """Share of behaviors broken, against passes spent.

    Args:
        budgets: each model's tone and its entry of `budget` in results.json.
        name: keeps the chart's ids apart from others'.
        description: for those who do not see it.
    """
    last = max(budget["spent"] for _, budget in budgets)

    def draw(axes: Any) -> None:
        for index, (tone, budget) in enumerate(budgets):
            # Later lines are thinner, so that equal ones do not hide each other.
            colour, width = _COLOURS[tone], 2.2 + 1.3 * (len(budgets) - 1 - index)
            if budget.get("below") is not None:
                xs, ys = _steps(budget["below"], budget["n_below"], last)
                axes.step(xs, ys, where="post", color=colour, linewidth=1.1, linestyle=(0, (2, 2)))
            if budget["n"]:
                xs, ys = _steps(budget["succeeded"], budget["n"], last)
                axes.step(xs, ys, where="post", color=colour, linewidth=width)
        if last > _WIDE_RANGE:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(-2, 103)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.set_xlabel("forward-backward passes on a behavior")
        axes.set_ylabel("behaviors (%)")

    return draw_chart(draw, name=name, description=description)


def _steps(
    counted: Sequence[Sequence[float]], total: int, last: float
) -> tuple[list[float], list[float]]:
    """The step function of a count, in percent, from the first pass to the largest budget."""
    shares = [(passes, 100 * count / total) for passes, count in counted]
    start = [] if shares and shares[0][0] <= 1 else [(1.0, 0.0)]
    points = [*start, *shares]
    points.append((max(last, points[-1][0]), points[-1][1]))
    return [x for x, _ in points], [y for _, y in points]
