"""A training run's own report: one self-contained HTML page with every curve, recipe and data.

A run that went wrong has one too: there the curves are needed most.
"""

from __future__ import annotations

from pathlib import Path

from mmcb.pages.environment import page_environment
from mmcb.pages.training_charts import training_charts
from mmcb.store import write_atomic
from mmcb.training.facts import FIGURES, HELDOUT_FIGURES, RunFacts

TEMPLATE = "report.html.j2"
FILE = "report.html"


def write_report(facts: RunFacts) -> Path:
    """Write report.html into the run's folder; its path."""
    path = facts.run / FILE
    write_atomic(path, render_report(facts))
    return path


def render_report(facts: RunFacts) -> str:
    """The page, as text."""
    environment = page_environment(Path(__file__).parent)
    return environment.get_template(TEMPLATE).render(
        title=f"Training of {facts.run.name}",
        headline=headline(facts),
        facts=facts,
        charts=training_charts(facts.run),
        figures=[
            ("on the batches trained on", facts.figures(FIGURES)),
            ("on held-out records", facts.figures(HELDOUT_FIGURES)),
        ],
        settings=_settings(facts),
    )


def headline(facts: RunFacts) -> str:
    """What the run did, in a sentence of its own numbers."""
    heldout, trained = facts.figures(HELDOUT_FIGURES), facts.figures(FIGURES)
    where = "On held-out records" if len(heldout) == len(HELDOUT_FIGURES) else "In training"
    figures = heldout if where == "On held-out records" else trained
    cosines = [figure for figure in figures if "cosine" in figure.name]
    if facts.manifest["status"] == "failed":
        return f"The run failed{_at(facts)}: {facts.manifest.get('error', 'no reason recorded')}"
    if len(cosines) != 2:
        return f"{facts.base}: {facts.manifest['status']}{_at(facts)}."
    harmful, benign = (f"{figure.last[1]:.3f}" for figure in cosines)
    return (
        f"{where}, the adapted model's representations of harmful answers have a cosine of "
        f"{harmful} to the base model's, those of harmless ones {benign}."
    )


def _at(facts: RunFacts) -> str:
    return "" if facts.last_step is None else f" at step {facts.last_step}"


def _settings(facts: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    manifest = facts.manifest
    git = manifest["git"]
    commit = f"{git['commit'] or 'unknown'}{' (dirty)' if git['dirty'] else ''}"
    run = [
        ("model", facts.base),
        ("revision", str(manifest.get("model_revision") or "not recorded")),
        ("status", str(manifest["status"])),
        ("started", str(manifest["started"])[:19]),
        ("resumed", f"{len(manifest['resumed'])} times"),
        ("finished", str(manifest["finished"] or "-")[:19]),
        ("device, dtype", f"{manifest['config']['device']}, {manifest['config']['dtype']}"),
    ]
    versions = [(name, str(version)) for name, version in manifest["versions"].items()]
    versions += [("python", manifest["python"]), ("platform", manifest["platform"])]
    return [
        ("Recipe", facts.settings),
        ("Run", run),
        ("Versions", [*versions, ("commit", commit)]),
    ]
