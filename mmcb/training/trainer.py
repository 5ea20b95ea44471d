"""The training loop: accelerate's devices, our schedule, a row of metrics a step, resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.log import get_logger, progress
from mmcb.models.loading import LoadedModel
from mmcb.models.seeding import seeded
from mmcb.store import record_id
from mmcb.training.batches import Batch, PixelCache, Sampler, collate, prefetched
from mmcb.training.checkpoints import load_checkpoint, save_checkpoint
from mmcb.training.examples import EncodedExample, ExampleSet
from mmcb.training.recipes import Recipe
from mmcb.training.reroute import Rerouter
from mmcb.training.schedule import Weights

if TYPE_CHECKING:
    from accelerate import Accelerator

STUCK_COSINE = 0.9
"""Above this cosine, half way through, rerouting has not begun: training sits on its saddle."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """What happens every so many steps."""

    checkpoint: int
    """Write a checkpoint."""
    validate: int
    """Measure the held-out records; 0 for never."""


class Trainer:
    """Trains the adapter of one model by one recipe. Knows nothing of folders but its checkpoint.

    Every step is a function of the weights before it and of (seed, step): examples, dropout and
    loss weights remember nothing else. A run that was killed and resumed is the run that was not.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        recipe: Recipe,
        *,
        train: ExampleSet,
        heldout: ExampleSet,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        """Get ready for step 1.

        Args:
            loaded: a model with a fresh adapter (`reroute.add_adapter`).
            recipe: how to train it.
            train: examples to train on.
            heldout: examples to measure on.
            seed: seed of the order of examples, of dropout and of the escape directions.
            accelerator: device and processes.
        """
        self.recipe = recipe
        self.rerouter = Rerouter(loaded, recipe, seed=seed)
        self.parameters = {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=0.0
        )
        self._seed = seed
        self._accelerator = accelerator
        self._wrapped, self._stepper = accelerator.prepare(self.rerouter, self.optimizer)
        self._pixels = PixelCache(loaded)
        self._pad_id = int(loaded.tokenizer.pad_token_id or 0)
        self._heldout = heldout
        self._sampler = Sampler(
            train.examples,
            batch_sizes=(recipe.batch_size, recipe.retain_batch_size),
            seed=seed,
            alternate=recipe.alternate,
            accumulation=recipe.accumulation,
            world=accelerator.num_processes,
        )

    def run(self, checkpoint: Path, *, every: Intervals) -> Iterator[dict[str, Any]]:
        """Train from the checkpoint, if there is one, to the last step.

        Args:
            checkpoint: file to resume from and to write to.
            every: intervals of checkpoints and validation.

        Yields:
            One row of metrics after each optimiser step; validation figures stand in the rows of
            the steps that were validated.

        Raises:
            MmcbError: a loss or a gradient is not finite.
        """
        recipe = self.recipe
        done = load_checkpoint(checkpoint, parameters=self.parameters, optimizer=self.optimizer)
        steps = range(done + 1, recipe.steps + 1)
        keys = [(step, micro) for step in steps for micro in range(recipe.accumulation)]
        batches = prefetched(self._make_batch, keys)
        with progress(recipe.steps, "training", initial=done) as bar:
            for step in steps:
                row = self._step(step, batches)
                last = step == recipe.steps
                if every.validate and (last or step % every.validate == 0):
                    row |= self.validate()
                yield row
                # After the row: a row is then never missing for a step that is not run again.
                if self._accelerator.is_main_process and (last or step % every.checkpoint == 0):
                    save_checkpoint(
                        checkpoint, step=step, parameters=self.parameters, optimizer=self.optimizer
                    )
                self._warn_if_stuck(step, row["reroute_cosine"])
                bar.advance(
                    reroute=row["reroute_loss"],
                    retain=row["retain_loss"],
                    cosine=row["reroute_cosine"],
                )

    def validate(self) -> dict[str, float]:
        """Cosines on the held-out records, without dropout: mean over tokens and target layers."""
        if not self._heldout.examples:
            return {}
        self.rerouter.eval()
        size = self.recipe.batch_size + self.recipe.retain_batch_size
        ordered = sorted(self._heldout.examples, key=lambda e: len(e.input_ids))
        chunks = [ordered[i : i + size] for i in range(0, len(ordered), size)]
        sums = {"reroute_cosine": 0.0, "retain_cosine": 0.0}
        counts = dict.fromkeys(sums, 0)
        for chunk in chunks:
            batch = self._collate(chunk)
            with torch.no_grad():
                outputs = self.rerouter(batch, Weights(0.0, 0.0, 0.0))
            masks = {"reroute_cosine": batch.reroute_mask, "retain_cosine": batch.retain_mask}
            for name, mask in masks.items():
                tokens = int(mask.sum())
                sums[name] += float(outputs[name]) * tokens
                counts[name] += tokens
        return {f"heldout_{name}": sums[name] / n for name, n in counts.items() if n}

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, Any]:
        """One optimiser step and its metrics."""
        started = time.perf_counter()
        weights = self.recipe.schedule.at(step)
        accelerator = self._accelerator
        self.rerouter.train()
        totals: dict[str, Tensor] = {}
        tokens = images = 0
        for micro in range(self.recipe.accumulation):
            batch = next(batches).to(accelerator.device)
            tokens += int(batch.attention_mask.sum())
            images += 0 if batch.pixel_values is None else len(batch.pixel_values)
            last = micro == self.recipe.accumulation - 1
            hold = nullcontext() if last else accelerator.no_sync(self._wrapped)
            dropout = _dropout_seed(self._seed, step, micro, accelerator.process_index)
            with hold, seeded(dropout):
                outputs = self._wrapped(batch, weights)
                accelerator.backward(outputs["loss"] / self.recipe.accumulation)
            for name, value in outputs.items():
                totals[name] = totals.get(name, 0) + value.detach() / self.recipe.accumulation
        norm = accelerator.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)
        values = self._read({**totals, "grad_norm": norm})
        _check_finite(values, step)
        self._stepper.step()
        self._stepper.zero_grad()
        return {
            "step": step,
            **values,
            "reroute_weight": weights.reroute,
            "retain_weight": weights.retain,
            "escape_weight": weights.escape,
            "learning_rate": self.recipe.learning_rate,
            "tokens": tokens,
            "images": images,
            "seconds": time.perf_counter() - started,
        }

    def _read(self, values: Mapping[str, Tensor | None]) -> dict[str, float]:
        """Means over the processes, as numbers, with one transfer from the device."""
        present = {name: value for name, value in values.items() if value is not None}
        stacked = torch.stack([value.detach().float() for value in present.values()])
        means = self._accelerator.reduce(stacked, reduction="mean").tolist()
        return dict(zip(present, means, strict=True))

    def _make_batch(self, step: int, micro: int) -> Batch:
        rank = self._accelerator.process_index
        examples = self._sampler.batch(step, micro=micro, rank=rank)
        return collate(examples, pixels=self._pixels, pad_id=self._pad_id)

    def _collate(self, examples: list[EncodedExample]) -> Batch:
        batch = collate(examples, pixels=self._pixels, pad_id=self._pad_id)
        return batch.to(self._accelerator.device)

    def _warn_if_stuck(self, step: int, cosine: float) -> None:
        if step in (self.recipe.steps // 2, self.recipe.steps) and cosine > STUCK_COSINE:
            _log.warning(
                "step %d: the cosine is still %.4f: rerouting has not left its saddle; "
                "try a higher --learning-rate, --escape-weight or --escape-steps",
                step,
                cosine,
            )


def _dropout_seed(seed: int, step: int, micro: int, rank: int) -> int:
    return int(record_id("dropout", seed, step, micro, rank), 16) % 2**63


def _check_finite(values: Mapping[str, float], step: int) -> None:
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise MmcbError(
            f"step {step}: {', '.join(wrong)} not finite; nothing of this step was kept",
            hint="lower --learning-rate, or use --dtype bfloat16 or float32 instead of float16",
        )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl, one for each optimiser step."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
