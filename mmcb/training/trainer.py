"""The training loop: accelerate's devices, our schedule, a row of metrics a step, resume."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.log import progress
from mmcb.models.loading import LoadedModel
from mmcb.training.batches import Batch, PixelCache, Sampler, prefetched
from mmcb.training.checkpoints import fingerprint_of, load_checkpoint, save_checkpoint
from mmcb.training.examples import EncodedExample, ExampleSet
from mmcb.training.health import Health, check_finite
from mmcb.training.objective import step_totals
from mmcb.training.recipes import Recipe
from mmcb.training.reroute import Rerouter
from mmcb.training.schedule import Weights
from mmcb.training.start import LearningRates, find_size
from mmcb.training.stopping import Stopper
from mmcb.training.targets import reroute_targets

if TYPE_CHECKING:
    from accelerate import Accelerator


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
            seed: seed of the order of examples, of dropout and of random directions.
            accelerator: device and processes.
        """
        self.recipe = recipe
        self._pixels = PixelCache(loaded)
        targets = reroute_targets(loaded, recipe, train.examples, pixels=self._pixels, seed=seed)
        self.rerouter = Rerouter(loaded, recipe, seed=seed, targets=targets)
        self.parameters = {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=0.0
        )
        self._seed = seed
        self._accelerator = accelerator
        self._wrapped, self._stepper = accelerator.prepare(self.rerouter, self.optimizer)
        self._heldout = heldout
        self._health = Health(steps=recipe.steps)
        self._fingerprint = fingerprint_of(
            recipe,
            train.examples,
            seed=seed,
            world=accelerator.num_processes,
            revision=loaded.revision,
        )
        self._sampler = Sampler(
            train.examples,
            batch_sizes=(recipe.batch_size, recipe.retain_batch_size),
            seed=seed,
            alternate=recipe.alternate,
            accumulation=recipe.accumulation,
            world=accelerator.num_processes,
        )

    def run(
        self,
        checkpoint: Path,
        *,
        every: Intervals,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> Iterator[dict[str, Any]]:
        """Train from the checkpoint, if there is one, to the last step.

        Args:
            checkpoint: file to resume from and to write to.
            every: intervals of checkpoints and validation.
            history: the rows of the steps that the checkpoint has done.

        Yields:
            One row of metrics after each optimiser step; validation figures stand in the rows of
            the steps that were validated.

        Raises:
            MmcbError: the checkpoint is damaged or another run's, a loss or a gradient is not
                finite, or the run has gone wrong (`Health`).
        """
        recipe = self.recipe
        state: dict[str, Any] = {
            "fingerprint": self._fingerprint,
            "parameters": self.parameters,
            "optimizer": self.optimizer,
        }
        done = load_checkpoint(checkpoint, **state)
        if len(history) != done and (recipe.start_steps or recipe.stop_early):
            raise MmcbError(
                f"{checkpoint} has done {done} steps, and metrics.jsonl has rows of {len(history)}",
                hint="--start-steps and --stop-early need them: delete the checkpoint",
            )
        rates = LearningRates(
            recipe.learning_rate,
            start_steps=recipe.start_steps,
            probe=self._probe,
            history=history,
        )
        stopper = Stopper(enabled=recipe.stop_early, history=history)
        steps = range(done + 1, done if stopper.done else recipe.steps + 1)
        keys = [(step, micro) for step in steps for micro in range(recipe.accumulation)]
        batches = prefetched(self._make_passes, keys)
        with progress(recipe.steps, "training", initial=done) as bar:
            for step in steps:
                self._set_rate(rates.current)
                row = self._step(step, batches)
                rates.saw(row)
                stopper.saw(row)
                last = stopper.done or step == recipe.steps
                if every.validate and (last or step % every.validate == 0):
                    row |= self.validate()
                yield row
                # After the row: one is then never missing for a step that is not run again. And
                # after the check: a run that failed in its last step must not go on to its end.
                self._health.check(step, row)
                if self._accelerator.is_main_process and (last or step % every.checkpoint == 0):
                    save_checkpoint(checkpoint, step=step, **state)
                bar.advance(
                    reroute=row["reroute_loss"],
                    retain=row["retain_loss"],
                    cosine=row["reroute_cosine"],
                )
                if last:
                    return

    def validate(self) -> dict[str, float]:
        """Cosines on the held-out records, without dropout: mean over tokens and target layers."""
        if not self._heldout.examples:
            return {}
        size = self.recipe.batch_size + self.recipe.retain_batch_size
        ordered = sorted(self._heldout.examples, key=lambda e: len(e.input_ids))
        chunks = [ordered[i : i + size] for i in range(0, len(ordered), size)]
        return {f"heldout_{name}": cosine for name, cosine in self._measure(chunks).items()}

    def _measure(self, chunks: Sequence[Sequence[EncodedExample]]) -> dict[str, float]:
        """Mean cosines of examples, without dropout."""
        self.rerouter.eval()
        sums = {"reroute_cosine": 0.0, "retain_cosine": 0.0}
        counts = dict.fromkeys(sums, 0)
        for chunk in chunks:
            batch = self.rerouter.objective.collate(chunk, pixels=self._pixels)
            batch = batch.to(self._accelerator.device)
            with torch.no_grad():
                outputs = self.rerouter(batch, Weights(0.0, 0.0, 0.0))
            masks = {"reroute_cosine": batch.reroute_mask, "retain_cosine": batch.retain_mask}
            for name, mask in masks.items():
                tokens = int(mask.sum())
                sums[name] += float(outputs[name]) * tokens
                counts[name] += tokens
        return {name: sums[name] / n for name, n in counts.items() if n}

    def _step(self, step: int, batches: Iterator[list[Batch]]) -> dict[str, Any]:
        """One optimiser step and its metrics."""
        started = time.perf_counter()
        accelerator, objective = self._accelerator, self.rerouter.objective
        totals = step_totals(objective, self._sampler.step(step), batches=self._sampler.parts)
        self.rerouter.train()
        sums: dict[str, Tensor] = {}
        tokens = images = 0
        passes = [(m, p) for m in range(self.recipe.accumulation) for p in next(batches)]
        for number, (micro, batch) in enumerate(passes, start=1):
            tokens += int(batch.attention_mask.sum())
            images += 0 if batch.pixel_values is None else len(batch.pixel_values)
            last = number == len(passes)
            hold = nullcontext() if last else accelerator.no_sync(self._wrapped)
            device = accelerator.device
            noise = self.rerouter.noise.of(batch, seed=self._seed, step=step, device=device)
            with hold, noise:
                weights = objective.weights(step, micro=micro)
                outputs = self._wrapped(batch.to(device), weights, totals)
                # A sum over batches and processes, which DDP would turn into a mean over processes.
                accelerator.backward(outputs["loss"] * accelerator.num_processes)
            for name, value in outputs.items():
                sums[name] = sums.get(name, 0) + value.detach()
        norm = accelerator.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)
        if norm is not None:
            sums["grad_norm"] = norm / accelerator.num_processes
        values = self._read(sums)
        check_finite(values, step=step)
        self._stepper.step()
        self._stepper.zero_grad()
        return {
            "step": step,
            **values,
            "reroute_weight": weights.reroute,
            "retain_weight": weights.retain,
            "escape_weight": weights.escape,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "tokens": tokens,
            "images": images,
            "seconds": time.perf_counter() - started,
        }

    def _set_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def _probe(self) -> float:
        """How far step 1's direction must be followed: `find_size`. Leaves the fresh adapter as is.

        AdamW's first step is its learning rate times the signs of the gradient: the direction.
        """
        fresh = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._set_rate(1.0)
        micros = range(self.recipe.accumulation)
        self._step(1, iter([self._make_passes(1, micro) for micro in micros]))
        ways = {name: p.detach() - fresh[name] for name, p in self.parameters.items()}
        self.optimizer.state.clear()
        rerouted = [e for e in self._sampler.step(1) if e.kind == "circuit_breaker"]

        def cosine_at(size: float) -> float:
            self._move(fresh, ways, size)
            return self._measure(self.rerouter.objective.split(rerouted))["reroute_cosine"]

        size = find_size(cosine_at)
        self._move(fresh, ways, 0.0)
        return size

    @torch.no_grad()
    def _move(self, start: Mapping[str, Tensor], way: Mapping[str, Tensor], size: float) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(start[name] + size * way[name])

    def _read(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Sums over the processes, as numbers, with one transfer from the device."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        sums = self._accelerator.reduce(stacked, reduction="sum").tolist()
        return dict(zip(values, sums, strict=True))

    def _make_passes(self, step: int, micro: int) -> list[Batch]:
        rank, objective = self._accelerator.process_index, self.rerouter.objective
        examples = self._sampler.batch(step, micro=micro, rank=rank)
        parts = objective.split(examples)
        return [objective.collate(part, pixels=self._pixels) for part in parts]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl, one for each optimiser step."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
