"""A row of a table as a drawing."""

from __future__ import annotations

from markupsafe import Markup

from mmcb.evaluation.rows import Row

_LEFT, _RIGHT, _STEP = 4, 196, 8


def track(row: Row) -> Markup:
    """A line from 0 to 100 % with each model's value as a dot and its interval as a bar."""
    height = 14 + _STEP * (len(row.cells) - 1)
    parts = [
        f'<svg class="track" viewBox="0 0 200 {height}" width="200" height="{height}" '
        'aria-hidden="true">'
    ]
    for x in (_LEFT, (_LEFT + _RIGHT) // 2, _RIGHT):
        parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="2" y2="{height - 2}"/>')
    for index, cell in enumerate(row.cells):
        if cell.rate["value"] is None:
            continue
        y, tone = 7 + _STEP * index, cell.column.tone
        low, value, high = (
            _LEFT + (_RIGHT - _LEFT) * float(cell.rate[key]) for key in ("low", "value", "high")
        )
        parts.append(
            f'<line class="bar {tone}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot {tone}" cx="{value:.1f}" cy="{y}" r="3.6"/>'
        )
    return Markup("".join([*parts, "</svg>"]))
