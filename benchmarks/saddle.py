"""Does rerouting leave its saddle, whatever the seed? With and without the escape term.

The reroute loss starts at cosine 1, where its gradient is exactly zero. This trains one model from
several seeds with the recipe's escape term and with none (the paper's recipe), and prints for every
run the step at which the cosine fell below a half, and where it ended. Nothing else differs.

    python benchmarks/saddle.py --model tiny-mistral --seeds 5

Runs are kept in runs/saddle and finished ones are not run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcb.cli import run_command
from mmcb.config import Config
from mmcb.errors import MmcbError
from mmcb.training.config import TrainingConfig

LEFT = 0.5
"""A run has left the saddle once the mean cosine over a batch is below this."""

HEADER = ("escape", "seed", "left at step", "cosine", "held-out", "retain loss", "retain cosine")


class SaddleConfig(Config):
    """Train with and without the escape term, from several seeds."""

    model: str = "tiny-mistral"
    """Model family, hub id or folder."""

    data: Path | None = None
    """Folder of the training data (default: the newest in data/synthesis)."""

    seeds: int = 5
    """Train from seeds 0, 1, ..."""

    steps: int | None = None
    """Optimiser steps (default: the recipe's)."""

    learning_rate: float | None = None
    """Learning rate (default: the recipe's)."""

    start_steps: int = 0
    """Steps of the measured start."""

    escape_steps: tuple[int | None, ...] = (None, 0)
    """Escape steps to compare; None is the recipe's, 0 is no escape."""

    out: Path = Path("runs/saddle")
    """Folder of the runs."""


def main() -> None:
    """Read the command line, train, print the table."""
    run_command(
        SaddleConfig,
        _run,
        prog="benchmarks/saddle.py",
        description="Train with and without the escape term, from several seeds.",
    )


def _run(config: SaddleConfig) -> None:
    from mmcb.training.run import train
    from mmcb.training.trainer import read_metrics

    rows: list[tuple[str, ...]] = [HEADER]
    for escape_steps in config.escape_steps:
        for seed in range(config.seeds):
            name = "recipe" if escape_steps is None else str(escape_steps)
            out = config.out / _folder(config, name) / f"seed-{seed}"
            training = TrainingConfig(
                model=config.model,
                data=config.data,
                out=out,
                seed=seed,
                steps=config.steps,
                learning_rate=config.learning_rate,
                start_steps=config.start_steps,
                reroute_target="rr",  # no other starts on a saddle
                embedding_noise=0.0,
                escape_steps=escape_steps,
                evaluate=False,
            )
            # A run that stays on the saddle fails; its metrics are there all the same.
            with contextlib.suppress(MmcbError):
                train(training)
            rows.append((name, str(seed), *_summary(read_metrics(out))))
    print(_table(rows))


def _folder(config: SaddleConfig, escape: str) -> str:
    model = config.model.strip("/").replace("/", "-")
    changed = (("lr", config.learning_rate), ("steps", config.steps))
    parts = [f"{label}-{value:g}" for label, value in changed if value is not None]
    if config.start_steps:
        parts.append(f"start-{config.start_steps}")
    return "-".join([model, *parts, f"escape-{escape}"])


def _summary(metrics: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """When the cosine first fell below `LEFT`; means over the last tenth of the steps."""
    left = next((row["step"] for row in metrics if row["reroute_cosine"] < LEFT), None)
    tail = metrics[-max(1, len(metrics) // 10) :]

    def mean(name: str) -> float:
        values = [row[name] for row in tail if name in row]
        return sum(values) / len(values) if values else float("nan")

    names = ("reroute_cosine", "heldout_reroute_cosine", "retain_loss", "retain_cosine")
    return ("never" if left is None else str(left), *(f"{mean(name):.3f}" for name in names))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, as docs/lab-log.md keeps it."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


if __name__ == "__main__":
    main()
