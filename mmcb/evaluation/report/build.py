"""Results and records -> one self-contained report.html.

Styles, charts and images stand in the file (mmcb/pages/environment.py says by which rules).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mmcb.evaluation.config import EvaluationConfig
from mmcb.evaluation.facts import attack_curves, show_epsilon
from mmcb.evaluation.inputs import Inputs
from mmcb.evaluation.report import plots, words
from mmcb.evaluation.report.gallery import Card, hijack_cards, text_cards
from mmcb.evaluation.report.runs import run_table
from mmcb.evaluation.summarize import Judged
from mmcb.evaluation.table import ASR_NAMES, CAPABILITY_NAMES, format_share
from mmcb.pages.charts import Chart
from mmcb.pages.environment import page_environment
from mmcb.pages.training_charts import training_charts
from mmcb.store import write_atomic

TEMPLATE = "report.html.j2"
_TRAINING_CHARTS = ("reroute", "retain", "cosine", "heldout")

Results = Mapping[str, Any]


def write_report(
    out: Path,
    *,
    results: Results,
    judged: Sequence[Judged],
    inputs: Inputs,
    config: EvaluationConfig,
) -> Path:
    """Write report.html into the evaluation's folder; its path."""
    path = out / "report.html"
    write_atomic(path, render(out, results=results, judged=judged, inputs=inputs, config=config))
    return path


def render(
    out: Path,
    *,
    results: Results,
    judged: Sequence[Judged],
    inputs: Inputs,
    config: EvaluationConfig,
) -> str:
    """The page, as text."""
    hidden = not config.show_harmful
    training = results.get("training")
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=config.title,
            results=results,
            roles=list(results["models"]),
            other_judges=list(results["judges"])[1:],
            headline=words.headline(results),
            judge_words=words.judges(results),
            transfer_words=words.transfer(results),
            warnings=words.warnings(results),
            asr_names=_present(ASR_NAMES, results, "asr"),
            capability_names=_present(CAPABILITY_NAMES, results, "capability"),
            runs=[run_table("", results["runs"])],
            categories=results["categories"],
            category_attacks=_category_attacks(results),
            training_charts=_training_charts(training),
            attack_charts=_attack_charts(config, judged),
            hijacks=hijack_cards(
                judged,
                inputs,
                attempts_path=out / "attempts.jsonl",
                judges=config.judges,
                show_harmful=config.show_harmful,
            ),
            text_sections=_text_sections(judged, config, out / "attempts.jsonl"),
            settings=words.settings(results),
            hidden=hidden,
        )
    )


def _environment() -> jinja2.Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters["percent"] = words.percent
    environment.filters["share"] = format_share
    environment.filters["interval"] = words.interval
    environment.filters["epsilon"] = show_epsilon
    environment.globals["track"] = track
    return environment


def _present(names: Mapping[str, str], results: Results, group: str) -> dict[str, str]:
    """The rows in which some model was measured."""
    models = results["models"].values()
    return {
        key: name for key, name in names.items() if any(model[group][key]["n"] for model in models)
    }


def _category_attacks(results: Results) -> list[str]:
    first: Mapping[str, Any] = next(iter(results["categories"].values()), {})
    return list(first.get(next(iter(results["models"])), {}))


def track(rates: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A line from 0 to 100 % with each model's value as a dot and its interval as a bar."""
    parts = ['<svg class="track" viewBox="0 0 200 22" aria-hidden="true">']
    for x in (4, 100, 196):
        parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="2" y2="20"/>')
    for index, (role, rate) in enumerate(rates.items()):
        if rate["value"] is None:
            continue
        y = 7 if index == 0 and len(rates) > 1 else 15
        low, value, high = (4 + 192 * float(rate[key]) for key in ("low", "value", "high"))
        css = "base" if role == "base" else "defended"
        parts.append(f'<line class="bar {css}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot {css}" cx="{value:.1f}" cy="{y}" r="3.6"/>')
    return Markup("".join([*parts, "</svg>"]))


def _training_charts(training: Mapping[str, Any] | None) -> list[Chart]:
    return [] if training is None else training_charts(Path(training["run"]), _TRAINING_CHARTS)


def _attack_charts(config: EvaluationConfig, judged: Sequence[Judged]) -> list[Chart]:
    attempts = {j.item.attempt.id: j.item.attempt for j in judged}
    curves = attack_curves(config.hijacks, attempts.values())
    tops = [y for points in curves.values() for _, y in points if math.isfinite(y)]
    charts = []
    for role in ("base", "defended"):
        ids = [name for name in curves if attempts[name].model == role]
        if not ids:
            continue
        passes = [attempts[name].measures.get("passes", 0.0) for name in ids]
        spent = f", {sum(passes) / len(ids):.0f} gradient steps each on average"
        note = f"{len(ids)} attacks (thin) and their median (thick){spent if any(passes) else ''}"
        svg = plots.loss_chart(
            [curves[name] for name in ids],
            role=role,
            name=f"attack-{role}",
            description=f"Attack loss on the {role} model over its steps: {note}",
            top=1.04 * max(tops),
        )
        charts.append(Chart(f"Attack on the {role} model", svg, note))
    return charts


def _text_sections(
    judged: Sequence[Judged], config: EvaluationConfig, attempts_path: Path
) -> list[tuple[str, list[Card]]]:
    sections = []
    for kind, (title, count) in words.TEXT_SECTIONS.items():
        cards = text_cards(
            judged,
            kind=kind,
            attempts_path=attempts_path,
            judges=config.judges,
            show_harmful=config.show_harmful,
            count=count,
        )
        if cards:
            sections.append((title, cards))
    return sections
