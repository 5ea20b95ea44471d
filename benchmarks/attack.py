"""Image hijacks, ours against a straightforward Hugging Face loop: `python -m benchmarks.attack`.

The reference is what published code does: one example at a time, weights that require gradients,
`loss = model(**inputs, labels=labels).loss; loss.backward()`, so logits at every position. It gets
our differentiable preprocessing, because the stock processor has none; so both walk the same path,
and the loss curves must agree. Both take turns, step by step, on the same behaviors, and medians
over the steps are reported. A pass is one forward and backward of one example. The last line is one
JSON object.

`--scaled` takes the shape of LLaVA-NeXT 7B instead of a shipped model: all its blocks, every width
divided by 16, and as many times fewer tokens a view, so that attention keeps its share.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from benchmarks.training.shapes import make_model
from mmcb.attacks.image_hijack.subjects import read_levels
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.pixels import PixelSpace, straight_to_grid
from mmcb.attacks.threat import PixelBall, from_levels
from mmcb.cli import run_command
from mmcb.config import Config
from mmcb.errors import MmcbError
from mmcb.models.chat import encode
from mmcb.models.families import find_family
from mmcb.models.loading import LoadedModel, load_model
from mmcb.models.preprocess import pixel_preprocessor
from mmcb.records import Behavior, Message
from mmcb.store import read_records, resolve_image

BALL, STEP = PixelBall(32 / 255), 1 / 255
SCALED_TILE = 84
"""6 x 6 patches of 14 pixels: a sixteenth of the 24 x 24 of a view of 336."""
_PACKAGES = ("torch", "transformers", "torchvision", "pillow")


class BenchmarkConfig(Config):
    """Time the steps of an image hijack."""

    model: str = "tiny-llava-next"
    """Family, hub id or folder of a vision-language model."""

    scaled: bool = False
    """A scaled-down LLaVA-NeXT 7B with random weights, in the place of `model`."""

    freeze_reference: bool = False
    """Let the plain loop ask for no gradients of weights, as a careful author would."""

    behaviors: Path = Path("data/miniature/evaluation/behaviors.jsonl")
    """Behavior records with pictures of one size."""

    batch_size: int = Field(default=16, ge=1)
    """Behaviors: attacked together by ours, one after another by the reference."""

    steps: int = Field(default=6, ge=1)
    """Steps to time, after one of warm-up."""

    device: str = "auto"
    """Device: auto, cpu, cuda, ..."""


@dataclass
class Timer:
    """Seconds of the steps of one variant: of the clock, and of this process's CPU."""

    device: torch.device
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, step: Callable[[], None]) -> None:
        """Run a step and note what it took."""
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        self._wait()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Reference:
    """One attack on one behavior, written as one writes it first."""

    def __init__(self, loaded: LoadedModel, behavior: Behavior, clean: Tensor) -> None:
        messages = (Message(role="user", content=behavior.prompt),)
        size = (clean.shape[1], clean.shape[2])
        encoded = encode(loaded, messages, image_size=size, prefill=behavior.target)
        self.model = loaded.model
        self.preprocess = pixel_preprocessor(loaded)
        self.ids = torch.tensor([encoded.input_ids], device=loaded.device)
        self.labels = self.ids.clone()
        self.labels[:, : encoded.completion_start] = -100
        levels = clean[None].to(loaded.device)
        self.image = from_levels(levels)
        self.lower, self.upper = BALL.bounds(levels)
        self.dtype = loaded.dtype
        self.losses: list[float] = []

    def step(self) -> None:
        """One sign step."""
        image = self.image.clone().requires_grad_()
        pixel_values, image_sizes = self.preprocess(straight_to_grid(image))
        inputs: dict[str, Any] = {"pixel_values": pixel_values.to(self.dtype)}
        if pixel_values.ndim == 5:
            inputs["image_sizes"] = image_sizes
        loss = self.model(input_ids=self.ids, labels=self.labels, **inputs).loss
        self.model.zero_grad()
        loss.backward()
        assert image.grad is not None
        self.losses.append(float(loss.detach()))
        moved = self.image - STEP * image.grad.sign()
        self.image = moved.clamp(self.lower, self.upper)


def main() -> None:
    """Read the command line, measure, print the table."""
    run_command(
        BenchmarkConfig,
        _run,
        prog="python -m benchmarks.attack",
        description="Time an image hijack's steps, ours and a plain loop's, on the same behaviors.",
    )


def _run(config: BenchmarkConfig) -> None:
    # Two models of the same weights: ours freezes its own, the plain loop's require gradients.
    ours_model, plain_model = _load(config), _load(config)
    plain_model.model.requires_grad_(not config.freeze_reference)
    behaviors, clean = _behaviors(config)
    references = [
        Reference(plain_model, behavior, picture)
        for behavior, picture in zip(behaviors, clean, strict=True)
    ]
    attack = _ours(ours_model, behaviors, clean, config.steps)
    ours, reference = Timer(ours_model.device), Timer(ours_model.device)
    for _ in range(config.steps + 1):
        ours.time(lambda: _step(attack))
        reference.time(lambda: _all(references))
    curves = [result.curve for result in attack.results()]
    apart = max(
        abs(mine - theirs)
        for curve, one in zip(curves, references, strict=True)
        for mine, theirs in zip(curve, one.losses, strict=False)
    )
    _report(config, ours, reference, apart, curves)


def _load(config: BenchmarkConfig) -> LoadedModel:
    loaded = load_model(config.model, device=config.device)
    if not config.scaled:
        return loaded
    blocks = find_family("llava-next").num_blocks
    return make_model(
        "llava-next",
        "cpu",
        tokenizer=loaded.tokenizer,
        num_blocks=blocks,
        with_head=True,
        tile=SCALED_TILE,
    )


def _behaviors(config: BenchmarkConfig) -> tuple[list[Behavior], Tensor]:
    if not config.behaviors.is_file():
        raise MmcbError(f"{config.behaviors} is not there", hint="python -m mmcb.miniature")
    chosen = [one for one in read_records(config.behaviors, Behavior) if one.image is not None]
    chosen = chosen[: config.batch_size]
    pictures = [
        read_levels(resolve_image(config.behaviors, one.image)) for one in chosen if one.image
    ]
    return chosen, torch.stack(pictures)


def _ours(
    loaded: LoadedModel, behaviors: Sequence[Behavior], clean: Tensor, steps: int
) -> ProjectedGradientDescent:
    objective = TargetObjective(
        loaded,
        prompts=[behavior.prompt for behavior in behaviors],
        targets=[behavior.target for behavior in behaviors],
        image_size=(clean.shape[2], clean.shape[3]),
    )
    return ProjectedGradientDescent(
        # One more than is timed: the last evaluation of a restart takes no gradient.
        PGDSettings(rule=StepRule(step_size=STEP), steps=steps + 1, stop_loss=-1.0),
        space=PixelSpace(clean.to(loaded.device), ball=BALL),
        objective=objective,
        row_ids=[behavior.id for behavior in behaviors],
    )


def _step(attack: ProjectedGradientDescent) -> None:
    attack.step()


def _all(references: Sequence[Reference]) -> None:
    for one in references:
        one.step()


def _report(
    config: BenchmarkConfig,
    ours: Timer,
    reference: Timer,
    apart: float,
    curves: Sequence[Sequence[float]],
) -> None:
    def per_second(seconds: list[float]) -> float:
        return len(curves) / statistics.median(seconds[1:])

    rows = {
        name: (per_second(timer.wall), per_second(timer.cpu))
        for name, timer in (("plain loop", reference), ("mmcb", ours))
    }
    model = "scaled llava-next" if config.scaled else config.model
    print(f"{model}, {len(curves)} behaviors, {config.steps} steps each\n")
    print("| variant | passes/s, clock | passes/s, CPU time |")
    print("|---|--:|--:|")
    for name, (wall, cpu) in rows.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    ratios = [mine / theirs for mine, theirs in zip(rows["mmcb"], rows["plain loop"], strict=True)]
    print(f"| ratio | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    first, last = (sum(curve[at] for curve in curves) / len(curves) for at in (0, config.steps))
    print(f"\nMean loss {first:.4f} to {last:.4f}; the curves differ by at most {apart:.2g}.")
    result = {
        "ratio": round(ratios[0], 3),
        "ratio_cpu_time": round(ratios[1], 3),
        "passes_per_second": {name: round(wall, 3) for name, (wall, _) in rows.items()},
        "curves_differ_by": apart,
        "model": model,
        "reference_frozen": config.freeze_reference,
        "batch_size": len(curves),
        "steps": config.steps,
        "device": _device(ours.device),
        "threads": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
    }
    print(json.dumps(result))


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
