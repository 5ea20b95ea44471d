"""Benchmarks that are tables of prompts: AdvBench, JailbreakBench, StrongREJECT, XSTest, OR-Bench.

What asks for harm becomes a Behavior; what only looks harmful becomes an over-refusal Task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmcb.evaluation.benchmarks.config import BenchmarkConfig
from mmcb.evaluation.benchmarks.reading import Placed, Reader, either
from mmcb.records import Behavior, Task
from mmcb.sources.rows import Row, read_rows


def harmful_table(
    name: str, *, prompt: Sequence[str], target: Sequence[str] = (), category: Sequence[str] = ()
) -> Reader:
    """A reader of behaviors, a row each; every column by the names that its releases give it.

    Args:
        name: the benchmark; with the row's number from 0 the behavior's id.
        prompt: column of the request.
        target: column of the target; none: --default-target.
        category: column of the category; none: the benchmark is one.
    """

    def read(config: BenchmarkConfig) -> Iterator[Placed]:
        for number, row in enumerate(read_rows(config.source)):
            behavior = Behavior(
                id=f"{name}-{number}",
                prompt=either(row, *prompt),
                target=either(row, *target) if target else config.default_target,
                category=either(row, *category) if category else name,
                split=config.split,
            )
            yield Placed(row.where, behavior)

    return read


def harmless_table(name: str, *, prompt: Sequence[str], category: Sequence[str] = ()) -> Reader:
    """A reader of over-refusal tasks, a row each; the category must be there, and is not kept."""

    def read(config: BenchmarkConfig) -> Iterator[Placed]:
        for number, row in enumerate(read_rows(config.source)):
            if category:
                either(row, *category)
            yield _refusable(row, f"{name}-{number}", either(row, *prompt))

    return read


def read_xstest(config: BenchmarkConfig) -> Iterator[Placed]:
    """`xstest_prompts.csv`: safe prompts as tasks, their unsafe contrasts as behaviors.

    Source: Roettger et al. 2024 (arXiv 2308.01263); 250 safe and 200 unsafe in version 2.
    """
    for row in read_rows(config.source):
        name, label = f"xstest-{row.text('id')}", row.text("label")
        if label == "safe":
            yield _refusable(row, name, row.text("prompt"))
        elif label == "unsafe":
            behavior = Behavior(
                id=name,
                prompt=row.text("prompt"),
                target=config.default_target,
                category=row.text("type"),
                split=config.split,
            )
            yield Placed(row.where, behavior)
        else:
            raise row.problem(f"label: {label!r} is neither safe nor unsafe")


def _refusable(row: Row, name: str, prompt: str) -> Placed:
    return Placed(row.where, Task(id=name, task="over_refusal", prompt=prompt))
