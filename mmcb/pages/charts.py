"""Charts as inline SVG that takes its colours and its font from the page.

matplotlib draws with stand-in colours which are then replaced by CSS variables, so one drawing
reads well in light and in dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from mmcb.pages.curves import Point

# Stand-ins: colours that occur nowhere else in matplotlib's output.
INK, MUTED, GRID = "#010203", "#040506", "#070809"
THIRD = "#101112"
MODEL_COLOURS = tuple(f"#0{number}0{number}fe" for number in range(1, 9))
"""The models' colours, in the order of their columns; the page's --m1, --m2, ..."""
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    THIRD: "var(--third)",
    **{colour: f"var(--m{number})" for number, colour in enumerate(MODEL_COLOURS, start=1)},
}
# The models' colours mean the models, so a training chart has others.
SERIES_COLOURS = (THIRD, MUTED, INK)

_SIZE = (4.3, 2.5)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mmcb",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with what it shows."""

    title: str
    svg: Markup
    note: str = ""


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    name: str,
    description: str,
) -> Markup:
    """One line for each series over the optimiser steps; `name` keeps the SVG's ids unique."""

    def draw(axes: Any) -> None:
        for (label, points), colour in zip(series.items(), _colours(len(series)), strict=True):
            xs, ys = np.array(points, dtype=float).T
            marker = "o" if len(points) < 16 else ""
            axes.plot(xs, ys, color=colour, label=label, marker=marker, markersize=3.2)
        axes.set_xlabel("step")
        _from_zero(axes)
        if len(series) > 1:
            axes.legend(loc="best", fontsize=9, handlelength=1.3, borderaxespad=0.2)

    return draw_chart(draw, name=name, description=description)


def _colours(count: int) -> list[str]:
    return [SERIES_COLOURS[i % len(SERIES_COLOURS)] for i in range(count)]


def _from_zero(axes: Any) -> None:
    """Start the y axis at zero unless the values are far from it or negative."""
    low, high = axes.get_ylim()
    if 0 < low < 0.5 * high:
        axes.set_ylim(0, high)


def draw_chart(draw: Callable[[Any], None], *, name: str, description: str) -> Markup:
    """Draw on fresh matplotlib axes; `name` keeps the SVG's ids unique in the page."""
    # Only a report draws: a command that does not should not wait for matplotlib.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.tick_params(length=3)
        axes.grid(visible=False, axis="x")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), name=name, description=description)


def _rounded(path: re.Match[str]) -> str:
    """A path to a hundredth of a point: nobody sees more, and a page of curves is half as large."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path[0])


def _inline(svg: str, *, name: str, description: str) -> Markup:
    """Cut the document down to its <svg>, make its ids unique and its colours the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'\bd="[^"]*"', _rounded, svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    # The page's font, in the chart's size.
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    label = Markup.escape(description)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", svg, count=1)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
