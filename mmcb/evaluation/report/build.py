"""An evaluation's report.html: the page of one evaluation, before and after its defence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmcb.evaluation.comparison import Evaluation, Results
from mmcb.evaluation.config import EvaluationConfig
from mmcb.evaluation.inputs import Inputs
from mmcb.evaluation.report.page import render_page
from mmcb.evaluation.summarize import Judged
from mmcb.store import write_atomic


def write_report(
    out: Path,
    *,
    results: Results,
    judged: Sequence[Judged],
    inputs: Inputs,
    config: EvaluationConfig,
) -> Path:
    """Write report.html into the evaluation's folder; its path."""
    evaluation = Evaluation(out.name, out, results, judged, inputs.behaviors, inputs.behavior_files)
    page = render_page(
        [evaluation],
        title=config.title,
        command="python -m mmcb.evaluation",
        show_harmful=config.show_harmful,
        num_hijacks=config.report_hijacks,
    )
    path = out / "report.html"
    write_atomic(path, page)
    return path
