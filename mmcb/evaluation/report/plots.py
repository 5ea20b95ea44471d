"""The attacks' charts: every attack's loss over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from mmcb.pages.charts import BASE, DEFENDED, THIRD, draw_chart
from mmcb.pages.curves import Point

ROLE_COLOURS = {"base": BASE, "defended": DEFENDED}


def loss_chart(
    curves: Sequence[Sequence[Point]], *, role: str, name: str, description: str, top: float
) -> Markup:
    """Every attack's loss over its steps as a thin line, their median as a thick one."""
    colour = ROLE_COLOURS.get(role, THIRD)

    def draw(axes: Any) -> None:
        for points in curves:
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
