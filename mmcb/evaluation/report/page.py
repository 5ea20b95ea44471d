"""Evaluations -> one self-contained page: any number of models, one design.

Styles, charts and images stand in the file (mmcb/pages/environment.py says by which rules).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from mmcb import __version__
from mmcb.evaluation.comparison import Column, Evaluation, columns_of, common_judges
from mmcb.evaluation.differences import MEANING, Difference, find_differences
from mmcb.evaluation.report import charts, contamination, words
from mmcb.evaluation.report.capability_runs import capability_run_rows
from mmcb.evaluation.report.gallery import Card, hijack_cards, text_cards
from mmcb.evaluation.report.headline import headline
from mmcb.evaluation.report.paper import paper_tables
from mmcb.evaluation.report.refusals import refusal_rows
from mmcb.evaluation.report.runs import run_table
from mmcb.evaluation.report.track import track
from mmcb.evaluation.rows import attack_rows, benign_rows, capability_rows, category_tables
from mmcb.evaluation.table import format_share
from mmcb.pages.environment import page_environment

TEMPLATE = "report.html.j2"


def render_page(
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    command: str,
    show_harmful: bool,
    num_hijacks: int = 8,
) -> str:
    """The page, as text.

    Args:
        evaluations: one or more, in the order of their columns.
        title: above the headline.
        command: what is writing it, for the foot.
        show_harmful: show harmful requests and answers instead of their length.
        num_hijacks: how many image hijacks to show, with their pictures.

    Raises:
        MmcbError: the headline numbers are by different judges.
    """
    columns = columns_of(evaluations)
    judges = common_judges(evaluations)
    several = len(evaluations) > 1
    context: dict[str, Any] = {
        "title": title,
        "headline": headline(columns),
        "evaluations": evaluations,
        "columns": columns,
        "several": several,
        "judges": judges,
        "warnings": _warnings(evaluations, several=several),
        "judge_words": words.judges(columns, judges),
        "agreement": [(e.name, e.results.get("agreement")) for e in evaluations],
        "runs": [run_table(e.name, e.results) for e in evaluations],
        "checks": [(e.name, check) for e in evaluations for check in e.results.get("checks", [])],
        "contamination": [(e.name, contamination.rows(e.results)) for e in evaluations],
        "transfer_words": _transfer(evaluations, several=several),
        "differences": _differences(evaluations),
        "papers": paper_tables(columns),
        "settings": [(e.name, words.settings(e.results)) for e in evaluations],
        "hidden": not show_harmful,
        "command": command,
        "version": __version__,
        **_tables(columns, judges),
        **_charts(columns),
        "hijacks": hijack_cards(columns, show_harmful=show_harmful, count=num_hijacks),
        "text_sections": _text_sections(columns, show_harmful=show_harmful),
    }
    return _environment().get_template(TEMPLATE).render(context)


def _environment() -> jinja2.Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters["percent"] = words.percent
    environment.filters["amount"] = words.amount
    environment.filters["spread"] = words.spread
    environment.filters["figure"] = words.figure
    environment.filters["perplexity"] = words.perplexity
    environment.filters["share"] = format_share
    environment.filters["interval"] = words.interval
    environment.filters["track"] = track
    return environment


def _tables(columns: Sequence[Column], judges: Sequence[str]) -> dict[str, Any]:
    return {
        "attack_rows": attack_rows(columns, judges),
        "capability_rows": capability_rows(columns),
        "benign_rows": benign_rows(columns),
        "beside_rows": capability_run_rows(columns),
        "refusal_rows": refusal_rows(columns),
        "category_tables": category_tables(columns),
    }


def _charts(columns: Sequence[Column]) -> dict[str, Any]:
    return {
        "training_groups": charts.training_groups(columns),
        "loss_groups": charts.loss_groups(columns),
        "budget_charts": charts.budget_charts(columns),
    }


def _warnings(evaluations: Sequence[Evaluation], *, several: bool) -> list[str]:
    found = [
        f"{e.name}: {warning}" if several else warning
        for e in evaluations
        for warning in (*contamination.warnings(e.results), *words.warnings(e.results))
    ]
    grave = [d.name for d in find_differences(evaluations) if d.weight == "measuring"]
    if grave:
        found.insert(0, f"{MEANING['measuring']} Different: {', '.join(grave)}.")
    attacks = [d.name for d in find_differences(evaluations) if d.weight == "attack"]
    if attacks:
        found.insert(bool(grave), f"{MEANING['attack']} Different: {', '.join(attacks)}.")
    return found


def _transfer(evaluations: Sequence[Evaluation], *, several: bool) -> list[str]:
    sentences = [(e.name, words.transfer(e.results)) for e in evaluations]
    return [f"{name}: {text}" if several else text for name, text in sentences if text]


def _differences(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[Difference]]]:
    found = find_differences(evaluations)
    groups = [(MEANING[kind], [d for d in found if d.weight == kind]) for kind in MEANING]
    return [(sentence, rows) for sentence, rows in groups if rows]


def _text_sections(
    columns: Sequence[Column], *, show_harmful: bool
) -> list[tuple[str, list[Card]]]:
    sections = []
    for kind, (title, count) in words.TEXT_SECTIONS.items():
        cards = text_cards(columns, kind=kind, show_harmful=show_harmful, count=count)
        if cards:
            sections.append((title, cards))
    return sections
