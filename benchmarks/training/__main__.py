"""Ours against the published recipe: `python -m benchmarks.training --shape llama-3`.

Three variants, each in a process of its own, on the same records, in the same order, with the same
random weights: the published recipe's step, the same with its padding removed, and mmcb's trainer.
The last line is one JSON object.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.training.shapes import Scale, ShapeName, Variant
from mmcb.cli import run_command
from mmcb.config import Config

_PACKAGES = ("torch", "transformers", "peft", "accelerate")


class BenchmarkConfig(Config):
    """Time a training step of the published recipe and of ours."""

    shape: ShapeName = "llava-next"
    """Whose shape the random model has."""

    scale: Scale = "cpu"
    """`cpu`: a sixteenth of the width, every proportion kept. `full`: 7B or 8B, for a GPU."""

    data: Path = Path("../shared/data")
    """Folder of public texts and photographs, whose lengths are used."""

    batch_size: int | None = Field(default=None, ge=1)
    """Circuit-breaker and as many retain examples in a step (default: 16 on a GPU, fewer here)."""

    steps: int = Field(default=4, ge=1)
    """Steps to time, after two of warm-up."""

    variants: tuple[Variant, ...] = ("reference", "unpadded", "ours")
    """What to measure; the ratios need all three."""

    memory: str | None = None
    """Budget of our variant, e.g. 16GiB: mmcb.training's flag of the same name."""


def main() -> None:
    """Read the command line, measure, print the table."""
    run_command(
        BenchmarkConfig,
        _run,
        prog="python -m benchmarks.training",
        description="Time a training step of the published recipe and of ours on the same records.",
    )


def _run(config: BenchmarkConfig) -> None:
    batch_size = config.batch_size or _batch_size(config)
    peak = _matrix_peak()
    measured: dict[str, dict[str, float]] = {}
    for variant in config.variants:
        print(f"measuring {variant} ...", file=sys.stderr, flush=True)
        measured[variant] = _measure(config, variant, batch_size)
    print(_describe(config, batch_size, peak))
    print(_table(measured, peak))
    print(json.dumps(_result(config, batch_size, measured, peak)))


def _result(
    config: BenchmarkConfig, batch_size: int, measured: dict[str, dict[str, float]], peak: float
) -> dict[str, Any]:
    ours = measured.get("ours")
    result: dict[str, Any] = {"shape": config.shape, "scale": config.scale, "device": _device()}
    if ours is not None:
        for other in ("reference", "unpadded"):
            if other in measured:
                ratio = measured[other]["seconds"] / ours["seconds"]
                result[f"ratio_{other}"] = round(ratio, 2)
        result["mfu"] = round(_share_of_peak(ours, peak), 3)
        result["peak_memory_gib"] = round(ours["memory_gib"], 2)
    result |= {"batch_size": batch_size, "memory": config.memory}
    result["versions"] = {package: metadata.version(package) for package in _PACKAGES}
    return result


def _batch_size(config: BenchmarkConfig) -> int:
    if config.scale == "full":
        return 16
    return 1 if config.shape == "llava-next" else 2


def _measure(config: BenchmarkConfig, variant: str, batch_size: int) -> dict[str, float]:
    job = {
        **config.model_dump(mode="json", include={"shape", "scale", "data", "steps", "memory"}),
        "variant": variant,
        "batch_size": batch_size,
        "warmup": 2,
    }
    command = [sys.executable, "-m", "benchmarks.training.measure", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _matrix_peak(size: int = 2048, seconds: float = 2.0) -> float:
    """Operations a second of a large matrix product in the precision of training."""
    import torch

    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    side = 4 * size if cuda else size
    a = torch.randn(side, side, dtype=dtype, device="cuda" if cuda else "cpu")
    best = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        a @ a
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads, {platform.machine()} CPU, float32"


def _share_of_peak(measured: dict[str, float], peak: float) -> float:
    return measured["flops_per_token"] * measured["tokens"] / measured["seconds"] / peak


def _describe(config: BenchmarkConfig, batch_size: int, peak: float) -> str:
    return (
        f"{config.shape}, {config.scale} scale, {batch_size} circuit-breaker and {batch_size} "
        f"retain examples a step, {config.steps} steps timed; {_device()}, "
        f"{peak / 1e9:.0f} GFLOP/s in a large matrix product"
    )


def _table(measured: dict[str, dict[str, float]], peak: float) -> str:
    """A Markdown table, as benchmarks/results keeps it."""
    lines = [
        "| variant | s a step | tokens a step | of them useful | useful tokens/s "
        "| share of matrix peak | GFLOP a useful token | peak memory, GiB | times ours |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    ours = measured.get("ours", {"seconds": float("nan")})["seconds"]
    for name, row in measured.items():
        lines.append(
            f"| {name} | {row['seconds']:.2f} | {row['padded']:.0f} "
            f"| {row['tokens'] / row['padded']:.0%} "
            f"| {row['tokens'] / row['seconds']:.0f} | {_share_of_peak(row, peak):.0%} "
            f"| {row['flops_per_token'] / 1e9:.3f} | {row['memory_gib']:.2f} "
            f"| {row['seconds'] / ours:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
