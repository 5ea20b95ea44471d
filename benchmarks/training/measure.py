"""One variant in a process of its own, so that its peak memory is its own; JSON on the last line.

python -m benchmarks.training.measure '{"shape": "llama-3", "scale": "cpu", "variant": "ours", ...}'
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.records import read_examples, texts
from benchmarks.training.reference import ReferenceTrainer
from benchmarks.training.shapes import (
    Scale,
    ShapeName,
    Variant,
    make_model,
    scaled_vocabulary,
)
from mmcb.miniature.architecture import train_tokenizer
from mmcb.models.families import find_family
from mmcb.training.batches import Sampler
from mmcb.training.config import TrainingConfig
from mmcb.training.examples import EncodedExample, ExampleSet, encode_examples
from mmcb.training.recipes import Recipe, resolve_recipe
from mmcb.training.reroute import add_adapter
from mmcb.training.trainer import Intervals, Trainer


class Job(BaseModel):
    """What to measure."""

    shape: ShapeName
    scale: Scale
    variant: Variant
    data: Path
    batch_size: int
    warmup: int
    """Steps that are not timed; a divisor of `steps`."""
    steps: int
    memory: str | None


def measure(job: Job) -> dict[str, float]:
    """Seconds and useful tokens of a step, operations for each token, and peak memory."""
    family = find_family(job.shape)
    config = TrainingConfig(
        model=job.shape,
        steps=job.warmup + job.steps,
        batch_size=job.batch_size,
        retain_batch_size=job.batch_size,
    )
    recipe = resolve_recipe(config, family)
    pairs = read_examples(job.data, with_images=family.kind == "vlm")
    tokenizer = train_tokenizer(
        texts(pairs), vocabulary_size=scaled_vocabulary(job.shape, job.scale)
    )
    ours = job.variant == "ours"
    loaded = make_model(
        job.shape,
        job.scale,
        tokenizer=tokenizer,
        # Upstream runs one block more than any target can see.
        num_blocks=recipe.num_blocks + (0 if ours else 1),
        with_head=not ours,
    )
    encoded = encode_examples(
        pairs,
        loaded,
        split="train",
        masks={"circuit_breaker": recipe.mask, "retain": recipe.retain_mask},
        max_length=recipe.max_length,
    )
    run = _run_ours if ours else _run_reference
    return run(job, loaded, recipe, encoded)


def _run_ours(job: Job, loaded: Any, recipe: Recipe, encoded: ExampleSet) -> dict[str, float]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    loaded = add_adapter(loaded, recipe, seed=0)
    trainer = Trainer(
        loaded,
        recipe,
        train=encoded,
        heldout=ExampleSet([], {}),
        seed=0,
        accelerator=accelerator,
        memory=TrainingConfig(memory=job.memory).memory_bytes,
    )
    with tempfile.TemporaryDirectory() as folder:
        # The trainer reads a step's figures while the next one runs. A validation, of nothing,
        # makes it read them at the warm-up's end, so that what is timed is the timed steps.
        every = Intervals(checkpoint=10**9, validate=job.warmup)
        rows = trainer.run(Path(folder) / "checkpoint.safetensors", every=every)
        found = _timed(job, recipe, encoded, lambda step: next(rows))
        timed = range(job.warmup + 1, job.warmup + job.steps + 1)
        passes = [batch for step in timed for _, batch in trainer.stepper.prepare(step).passes]
        return found | {"padded": sum(b.input_ids.numel() for b in passes) / job.steps}


def _run_reference(job: Job, loaded: Any, recipe: Recipe, encoded: ExampleSet) -> dict[str, float]:
    trainer = ReferenceTrainer(
        loaded, recipe, lora_layers=find_family(job.shape).defaults.lora_layers
    )
    padded = job.variant == "reference"
    tokens: list[int] = []

    def take(step: int) -> None:
        examples = _examples(recipe, encoded, step)
        tokens.append(trainer.step(examples, step=step, padded=padded))

    found = _timed(job, recipe, encoded, take)
    return found | {"padded": sum(tokens[job.warmup :]) / job.steps}


def _examples(recipe: Recipe, encoded: ExampleSet, step: int) -> list[EncodedExample]:
    """The examples of a step: the same for every variant."""
    sampler = Sampler(
        encoded.examples,
        batch_sizes=(recipe.batch_size, recipe.retain_batch_size),
        seed=0,
        alternate=recipe.alternate,
    )
    return sampler.step(step)


def _timed(
    job: Job, recipe: Recipe, encoded: ExampleSet, take: Callable[[int], object]
) -> dict[str, float]:
    """Time the steps; count operations in the warm-up, which counting may slow down."""

    def tokens(steps: range) -> int:
        return sum(len(e.input_ids) for step in steps for e in _examples(recipe, encoded, step))

    warmup = range(1, job.warmup + 1)
    timed = range(job.warmup + 1, job.warmup + job.steps + 1)
    with FlopCounterMode(display=False) as counter:
        for step in warmup:
            take(step)
    _synchronize()
    started = time.perf_counter()
    for step in timed:
        take(step)
    _synchronize()
    return {
        "seconds": (time.perf_counter() - started) / job.steps,
        "tokens": tokens(timed) / job.steps,
        "flops_per_token": counter.get_total_flops() / tokens(warmup),
        "memory_gib": _peak_gib(),
    }


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_gib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # Not getrusage: that hands a parent's peak down to its child.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


if __name__ == "__main__":
    result = measure(Job.model_validate_json(sys.argv[1]))
    sys.stdout.write(json.dumps(result) + "\n")
