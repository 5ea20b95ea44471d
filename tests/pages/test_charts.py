"""Charts of the pages, and the curves that they are drawn from."""

import json
from pathlib import Path

from mmcb.pages.charts import line_chart
from mmcb.pages.curves import training_curves
from mmcb.pages.training_charts import training_charts


def test_chart_takes_the_pages_colours() -> None:
    svg = line_chart({"a": [(0, 1.0), (1, 0.5)]}, name="x", description='loss "<b>"')
    assert "var(--third)" in svg
    assert "#101112" not in svg
    assert "DejaVu" not in svg
    assert 'aria-label="loss &#34;&lt;b&gt;&#34;"' in svg


def test_a_step_logged_twice_counts_as_it_was_logged_last(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert training_curves(tmp_path) == {"loss": [(1.0, 3.0), (2.0, 1.0)]}


def test_tokens_a_second_are_drawn_and_what_was_not_logged_is_not(tmp_path: Path) -> None:
    rows = [{"step": step, "tokens": 100 * step, "seconds": 0.5} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [chart.title for chart in training_charts(tmp_path)] == ["Tokens a second"]
    assert training_charts(tmp_path / "nowhere") == []
