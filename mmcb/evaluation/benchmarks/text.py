"""Benchmarks that are tables of prompts: AdvBench, JailbreakBench, StrongREJECT, XSTest, OR-Bench.

What asks for harm becomes a Behavior; what only looks harmful becomes an over-refusal Task.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmcb.evaluation.benchmarks.config import BenchmarkConfig
from mmcb.evaluation.benchmarks.reading import Placed, either, numbered
from mmcb.records import Behavior, Task
from mmcb.sources.rows import Row


def read_advbench(config: BenchmarkConfig) -> Iterator[Placed]:
    """`harmful_behaviors.csv` with goal and target (Zou et al. 2023, arXiv 2307.15043)."""
    for number, row in numbered(config.source):
        yield _behavior(
            config,
            row,
            name=f"advbench-{number}",
            prompt=row.text("goal"),
            target=row.text("target"),
            category="advbench",
        )


def read_jailbreakbench(config: BenchmarkConfig) -> Iterator[Placed]:
    """JBB-Behaviors' harmful half, with Goal, Target and Category (arXiv 2404.01318)."""
    for number, row in numbered(config.source):
        yield _behavior(
            config,
            row,
            name=f"jailbreakbench-{number}",
            prompt=either(row, "Goal", "goal"),
            target=either(row, "Target", "target"),
            category=either(row, "Category", "category"),
        )


def read_jailbreakbench_benign(config: BenchmarkConfig) -> Iterator[Placed]:
    """JBB-Behaviors' benign half: requests about the same topics that ask for no harm."""
    for number, row in numbered(config.source):
        yield _refusable(row, f"jailbreakbench-benign-{number}", either(row, "Goal", "goal"))


def read_strongreject(config: BenchmarkConfig) -> Iterator[Placed]:
    """`strongreject_dataset.csv` with category and forbidden_prompt (arXiv 2402.10260)."""
    for number, row in numbered(config.source):
        yield _behavior(
            config,
            row,
            name=f"strongreject-{number}",
            prompt=row.text("forbidden_prompt"),
            target=config.default_target,
            category=row.text("category"),
        )


def read_xstest(config: BenchmarkConfig) -> Iterator[Placed]:
    """`xstest_prompts.csv`: safe prompts as tasks, their unsafe contrasts as behaviors.

    Source: Roettger et al. 2024 (arXiv 2308.01263); 250 safe and 200 unsafe in version 2.
    """
    for _, row in numbered(config.source):
        name, label = f"xstest-{row.text('id')}", row.text("label")
        if label == "safe":
            yield _refusable(row, name, row.text("prompt"))
        elif label == "unsafe":
            yield _behavior(
                config,
                row,
                name=name,
                prompt=row.text("prompt"),
                target=config.default_target,
                category=row.text("type"),
            )
        else:
            raise row.problem(f"label: {label!r} is neither safe nor unsafe")


def read_or_bench(config: BenchmarkConfig) -> Iterator[Placed]:
    """`or-bench-80k` or `or-bench-hard-1k` with prompt and category (arXiv 2405.20947)."""
    for number, row in numbered(config.source):
        row.text("category")
        yield _refusable(row, f"or-bench-{number}", row.text("prompt"))


def read_or_bench_toxic(config: BenchmarkConfig) -> Iterator[Placed]:
    """`or-bench-toxic`: what a model should refuse, the other half of the pair."""
    for number, row in numbered(config.source):
        yield _behavior(
            config,
            row,
            name=f"or-bench-toxic-{number}",
            prompt=row.text("prompt"),
            target=config.default_target,
            category=row.text("category"),
        )


def _behavior(
    config: BenchmarkConfig, row: Row, *, name: str, prompt: str, target: str, category: str
) -> Placed:
    behavior = Behavior(
        id=name, prompt=prompt, target=target, category=category, split=config.split
    )
    return Placed(row.where, behavior)


def _refusable(row: Row, name: str, prompt: str) -> Placed:
    return Placed(row.where, Task(id=name, task="over_refusal", prompt=prompt))
