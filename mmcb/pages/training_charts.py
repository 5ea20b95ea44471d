"""The curves of a training run as charts, for its own report and for an evaluation's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmcb.pages.charts import Chart, line_chart
from mmcb.pages.curves import Point, training_curves


class ChartSpec(NamedTuple):
    """What a chart of a training run shows."""

    title: str
    note: str
    """What its lines are, in a clause."""
    lines: Mapping[str, str]
    """Name in metrics.jsonl to the line's label."""


TRAINING_CHARTS: Mapping[str, ChartSpec] = {
    "reroute": ChartSpec(
        "Reroute loss",
        "harmful representations: 1 is the frozen model's direction, 0 is unrelated to it",
        {"reroute_loss": "reroute loss", "escape_loss": "escape loss"},
    ),
    "retain": ChartSpec(
        "Retain loss",
        "distance of the benign representations from the frozen model's",
        {"retain_loss": "retain loss"},
    ),
    "cosine": ChartSpec(
        "Cosine, training examples",
        "between the adapted and the frozen model's representations",
        {"reroute_cosine": "harmful", "retain_cosine": "benign"},
    ),
    "heldout": ChartSpec(
        "Cosine, validation",
        "the same on held-out records",
        {"heldout_reroute_cosine": "harmful", "heldout_retain_cosine": "benign"},
    ),
    "weights": ChartSpec(
        "Loss weights",
        "what each loss is multiplied by, as the schedule has it",
        {"reroute_weight": "reroute", "retain_weight": "retain", "escape_weight": "escape"},
    ),
    "norms": ChartSpec(
        "Norm of harmful representations",
        "mean over tokens at the target layers",
        {"adapted_norm": "adapted", "frozen_norm": "frozen"},
    ),
    "gradient": ChartSpec("Gradient norm", "before it is clipped", {"grad_norm": "gradient norm"}),
    "speed": ChartSpec(
        "Tokens a second",
        "tokens of both sets in a step, over the step's time",
        {"tokens_per_second": "tokens a second"},
    ),
}
"""Every chart, by name, in the order of a page."""


def training_charts(
    run: Path, names: Sequence[str] = tuple(TRAINING_CHARTS), *, prefix: str = "training"
) -> list[Chart]:
    """Draw charts of a training run; one whose numbers were not logged is left out.

    Args:
        run: the run's folder, with metrics.jsonl.
        names: keys of `TRAINING_CHARTS`.
        prefix: keeps the charts' ids apart where a page shows several runs.
    """
    curves = training_curves(run)
    curves["tokens_per_second"] = _rate(curves.get("tokens", []), curves.get("seconds", []))
    charts = []
    for name in names:
        spec = TRAINING_CHARTS[name]
        series = {label: curves[key] for key, label in spec.lines.items() if curves.get(key)}
        if series:
            svg = line_chart(
                series, name=f"{prefix}-{name}", description=f"{spec.title}: {spec.note}"
            )
            charts.append(Chart(spec.title, svg, spec.note))
    return charts


def _rate(amounts: Sequence[Point], seconds: Sequence[Point]) -> list[Point]:
    spent = dict(seconds)
    return [(step, n / spent[step]) for step, n in amounts if spent.get(step)]
