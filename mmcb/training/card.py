"""The model card of a run's adapter and of its merged checkpoint, made from the run's files.

Every number in it stands in one of those files. What comes out of a variable is escaped for
Markdown, so that no name of a file or a model can become markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mmcb.models.export import VLLM_RANKS
from mmcb.store import write_atomic
from mmcb.training.facts import FIGURES, HELDOUT_FIGURES, RunFacts

TEMPLATE = "card.md.j2"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def write_card(facts: RunFacts, folder: Path, *, merged: bool = False) -> Path:
    """Write README.md into the folder of an adapter or of a merged checkpoint; its path.

    Args:
        facts: the run that it came out of.
        folder: where the weights are.
        merged: the folder holds the whole model.
    """
    path = folder / "README.md"
    text = render_card(facts, merged=merged)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text)
    return path


def render_card(facts: RunFacts, *, merged: bool) -> str:
    """The card as text: YAML metadata as the hub reads it, then Markdown."""
    template = _environment().get_template(TEMPLATE)
    rows = _evaluation_rows(facts.results)
    body = template.render(
        facts=facts,
        merged=merged,
        rank=_vllm_rank(facts),
        figures=facts.figures(FIGURES),
        heldout=facts.figures(HELDOUT_FIGURES),
        evaluation=rows,
        hijacked=any("image hijack" in name for name, _ in rows),
    )
    return f"---\n{_metadata(facts, merged=merged)}\n---\n{body}"


def escape(value: object) -> str:
    """Make text harmless inside Markdown, and keep it on one line; markup is left as it is."""
    if isinstance(value, Markup):
        return value
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def code(value: object) -> Markup:
    """A code span; what could end it, or a table's cell, is taken out."""
    return Markup("`" + re.sub(r"[`|\s]+", " ", str(value)).strip() + "`")


def literal(value: object) -> Markup:
    """A Python string for a code block."""
    return Markup(repr(str(value)).replace("`", ""))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=escape,
    )
    environment.filters.update(code=code, literal=literal, number=_number, rate=_rate)
    return environment


def _metadata(facts: RunFacts, *, merged: bool) -> str:
    from huggingface_hub import ModelCardData

    base = facts.hub_base
    shipped = facts.family is not None and facts.family.local_path is not None
    data = ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "finetune" if merged else "adapter",
        library_name="transformers" if merged else "peft",
        # A derivative of someone's weights: only of our own do we know the licence.
        license="apache-2.0" if shipped else None,
        datasets=facts.hub_datasets or None,
        pipeline_tag="image-text-to-text" if facts.takes_images else "text-generation",
        tags=["circuit-breakers", "representation-rerouting", "mmcb"],
    )
    return data.to_yaml().strip()


def _vllm_rank(facts: RunFacts) -> int | None:
    rank = facts.adapter.get("r")
    return next((r for r in VLLM_RANKS if r >= int(rank)), None) if rank else None


def _evaluation_rows(results: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What was measured, by name: each model's rate. A thing measured on no model has no row."""
    models: Mapping[str, Any] = results.get("models", {})
    rates: dict[str, dict[str, Any]] = {}
    for role, model in models.items():
        for key, rate in model["asr"].items():
            rates.setdefault(f"attack success: {key}", {})[role] = rate
        for key, rate in model["capability"].items():
            rates.setdefault(f"right: {key}", {})[role] = rate
        for key, name in _BENIGN.items():
            rates.setdefault(name, {})[role] = model[key]
    measured = {n: row for n, row in rates.items() if any(rate["n"] for rate in row.values())}
    return [(name.replace("_", " "), row) for name, row in measured.items()]


_BENIGN = {"over_refusal": "benign requests refused", "coherence_benign": "benign answers coherent"}


def _number(value: float) -> Markup:
    return Markup(f"{value:.4g}")


def _rate(rate: Mapping[str, Any]) -> Markup:
    if rate["value"] is None:
        return Markup("-")
    value, low, high = (f"{100 * rate[key]:.1f}" for key in ("value", "low", "high"))
    return Markup(f"{value} % ({low} to {high}), n = {rate['n']}")
