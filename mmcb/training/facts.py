"""What a training run's folder says of it, gathered for its model card and its report.

Nothing is computed anew and nothing is filled in: what the files do not say is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mmcb.models.families import FAMILIES, Family
from mmcb.pages.curves import Point, read_json, training_curves
from mmcb.run_folder import read_manifest
from mmcb.sources.source import parse_source
from mmcb.store import file_hash, folder_hash
from mmcb.training.recipes import Recipe, read_recipe

WEIGHTS_FILE = "adapter_model.safetensors"

FIGURES: Mapping[str, str] = {
    "reroute_loss": "reroute loss",
    "retain_loss": "retain loss",
    "reroute_cosine": "cosine to the frozen model, harmful tokens",
    "retain_cosine": "cosine to the frozen model, benign tokens",
    "adapted_norm": "norm of harmful representations, adapted",
    "frozen_norm": "norm of harmful representations, frozen",
    "grad_norm": "gradient norm",
}
"""Metrics of a training step that are reported as figures, and what they are called."""

HELDOUT_FIGURES: Mapping[str, str] = {
    "heldout_reroute_cosine": "cosine to the frozen model, harmful tokens",
    "heldout_retain_cosine": "cosine to the frozen model, benign tokens",
}
"""The same of the held-out records."""


class Figure(NamedTuple):
    """A number at the first and at the last step that has one."""

    name: str
    first: Point
    last: Point


class DataSource(NamedTuple):
    """A source of training examples, named so that it can be shown to others."""

    kind: str
    name: str
    """Format and hub id, or format and the file's name without its folders."""
    revision: str | None
    train: int
    heldout: int
    hash: str


@dataclass(frozen=True)
class RunFacts:
    """A training run, as its files tell it."""

    run: Path
    manifest: Mapping[str, Any]
    recipe: Recipe | None
    curves: Mapping[str, list[Point]]
    adapter: Mapping[str, Any]
    """adapter_config.json; empty while there is none."""
    results: Mapping[str, Any]
    """results.json of an evaluation of this adapter; empty if there was none."""

    @property
    def model(self) -> str:
        """The base model, as the user named it."""
        return str(self.manifest["config"]["model"])

    @property
    def family(self) -> Family | None:
        """The base model's row in the table, if it was named by it."""
        named = (f for f in FAMILIES.values() if self.model in (f.name, f.hub_id))
        return next(named, None)

    @property
    def base(self) -> str:
        """The base model for others: its hub id, or the name without the folders of this disk."""
        if self.family is not None:
            return self.family.hub_id or self.family.name
        return Path(self.model).name if self.model_is_local else self.model

    @property
    def model_is_local(self) -> bool:
        """Whether the base model was a folder, not a model of the hub or of the package."""
        return self.family is None and Path(self.model).is_dir()

    @property
    def hub_base(self) -> str | None:
        """The base model's hub id, None if it has none."""
        if self.family is not None:
            return self.family.hub_id
        return None if self.model_is_local else self.model

    @property
    def base_class(self) -> str | None:
        """Name of the base model's transformers class."""
        name = (self.adapter.get("auto_mapping") or {}).get("base_model_class")
        return name if isinstance(name, str) and name.isidentifier() else None

    @property
    def takes_images(self) -> bool:
        """Whether the base model takes images."""
        return not (self.base_class or "ForCausalLM").endswith("ForCausalLM")

    @cached_property
    def weights_hash(self) -> str | None:
        """SHA-256 of the adapter's weights, None while there are none."""
        file = self.run / "adapter" / WEIGHTS_FILE
        return file_hash(file) if file.is_file() else None

    @property
    def last_step(self) -> int | None:
        """The last step that was logged."""
        losses = self.curves.get("loss")
        return int(losses[-1][0]) if losses else None

    @property
    def settings(self) -> list[tuple[str, str]]:
        """Every value of the recipe, and the seed."""
        recipe = {} if self.recipe is None else self.recipe.model_dump(mode="json")
        rows = {**recipe, "seed": self.manifest["config"].get("seed")}
        return [(name.replace("_", " "), _shown(value)) for name, value in rows.items()]

    @property
    def sources(self) -> list[DataSource]:
        """What each source gave."""
        return [
            DataSource(
                kind=part["kind"].replace("_", "-"),
                name=_source_name(part["source"]),
                revision=part["revision"],
                train=part["train"],
                heldout=part["heldout"],
                hash=part["hash"],
            )
            for part in self.manifest.get("sources", [])
        ]

    @property
    def inputs(self) -> list[tuple[str, str, str]]:
        """Each data file: its part in the run, its name and its SHA-256."""
        inputs = self.manifest.get("inputs", {})
        return [(n.replace("_", "-"), Path(i["path"]).name, i["sha256"]) for n, i in inputs.items()]

    @property
    def hub_datasets(self) -> list[str]:
        """Ids of the data sets of the hub that it was trained on."""
        places = [parse_source(part["source"]).hub for part in self.manifest.get("sources", [])]
        return sorted({place.id for place in places if place is not None})

    def figures(self, names: Mapping[str, str]) -> list[Figure]:
        """The first and last value of those metrics that were logged."""
        curves = self.curves
        return [
            Figure(label, curves[name][0], curves[name][-1])
            for name, label in names.items()
            if curves.get(name)
        ]


def read_facts(run: Path) -> RunFacts:
    """Gather what a training run's folder says.

    Raises:
        MmcbError: it is no run's folder, or its recipe cannot be read.
    """
    recipe = run / "recipe.json"
    return RunFacts(
        run=run,
        manifest=read_manifest(run),
        recipe=read_recipe(recipe) if recipe.is_file() else None,
        curves=training_curves(run),
        adapter=read_json(run / "adapter" / "adapter_config.json"),
        results=_results_of(run),
    )


def _results_of(run: Path) -> dict[str, Any]:
    """The results of an evaluation, if it was of the adapter that is there now."""
    results, adapter = read_json(run / "results.json"), run / "adapter"
    measured = results.get("settings", {}).get("weights", {}).get("defended", "")
    there = adapter.is_dir() and str(measured).endswith(f"+{folder_hash(adapter)}")
    return results if there else {}


def _source_name(source: str) -> str:
    parsed = parse_source(source)
    if parsed.hub is not None:
        return source
    count = "" if parsed.count is None else f"@{parsed.count}"
    return f"{parsed.format}:{Path(parsed.place).name}{count}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
