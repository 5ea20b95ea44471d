"""The training loop: accelerate's devices, our schedule, a row of metrics a step, resume."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmcb.log import progress
from mmcb.models.loading import LoadedModel
from mmcb.training.batches import Batch, PixelCache, Sampler, prefetched
from mmcb.training.checkpoints import fingerprint_of, load_checkpoint, save_checkpoint
from mmcb.training.examples import EncodedExample, ExampleSet
from mmcb.training.health import Health, check_finite
from mmcb.training.measuring import mean_cosines
from mmcb.training.memory import MemoryPlan, plan_memory
from mmcb.training.objective import step_totals
from mmcb.training.processes import from_main
from mmcb.training.readout import Readout
from mmcb.training.recipes import Recipe
from mmcb.training.reroute import Rerouter
from mmcb.training.sharding import no_sync, optimizer_for, parallel, place, whole
from mmcb.training.start import LearningRates, probe, set_rate
from mmcb.training.stopping import Stopper
from mmcb.training.targets import reroute_targets

if TYPE_CHECKING:
    from accelerate import Accelerator


Rows = Sequence[Mapping[str, Any]]
"""Rows of metrics, one for each optimiser step from the first on."""

_SHOWN = {"reroute": "reroute_loss", "retain": "retain_loss", "cosine": "reroute_cosine"}
"""What the progress bar shows of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """What happens every so many steps."""

    checkpoint: int
    """Write a checkpoint."""
    validate: int
    """Measure the held-out records; 0 for never."""


class _Queued(NamedTuple):
    """An optimiser step that the device may still be at."""

    step: int
    readout: Readout
    known: dict[str, float]
    """What its row holds besides what the device computes."""


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
        memory: int | None = None,
    ) -> None:
        """Get ready for step 1.

        Args:
            loaded: a model with a fresh adapter (`reroute.add_adapter`).
            recipe: how to train it.
            train: examples to train on.
            heldout: examples to measure on.
            seed: seed of the order of examples, of dropout and of random directions.
            accelerator: device and processes. A step's examples are shared out among these, and
                the trajectory does not depend on how many they are.
            memory: bytes of each device that training may use: `plan_memory`.

        Raises:
            MmcbError: the longest example needs more memory.
        """
        self.recipe = recipe
        place(loaded, accelerator=accelerator)
        self._pixels = PixelCache(loaded)
        targets = reroute_targets(loaded, recipe, train.examples, pixels=self._pixels, seed=seed)
        self.rerouter = Rerouter(loaded, recipe, seed=seed, targets=targets)
        self._wrapped = parallel(self.rerouter, accelerator=accelerator)
        self._plan = self._plan_passes(train, heldout, memory, accelerator)
        self.parameters = {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=0.0
        )
        self._seed = seed
        self._accelerator = accelerator
        self._stepper = optimizer_for(self.optimizer, self._wrapped, accelerator)
        self._heldout = heldout
        self._health = Health(steps=recipe.steps)
        self._fingerprint = fingerprint_of(
            recipe,
            train.examples,
            seed=seed,
            revision=loaded.revision,
        )
        self._sampler = Sampler(
            train.examples,
            batch_sizes=(recipe.batch_size, recipe.retain_batch_size),
            seed=seed,
            alternate=recipe.alternate,
            accumulation=recipe.accumulation,
        )

    def run(
        self, checkpoint: Path, *, every: Intervals, history: Rows = ()
    ) -> Iterator[dict[str, Any]]:
        """Train from the checkpoint, if there is one, to the last step.

        Args:
            checkpoint: file to resume from and to write to.
            every: intervals of checkpoints and validation.
            history: rows of the steps that the checkpoint has done.

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
            "accelerator": self._accelerator,
        }
        done = load_checkpoint(checkpoint, **state)
        rates = LearningRates(recipe, probe=self._probe, history=history)
        stopper = Stopper(enabled=recipe.stop_early, history=history)
        steps = range(done + 1, done if stopper.done else recipe.steps + 1)
        prepared = prefetched(self.passes, steps)
        queued: list[_Queued] = []
        began = time.perf_counter()
        with progress(recipe.steps, "training", initial=done) as bar:
            for step in steps:
                now = rates.starting or recipe.stop_early
                set_rate(self.optimizer, rates.current)
                queued.append(self._step(step, next(prepared)))
                last = step == recipe.steps
                validated = bool(every.validate) and (last or step % every.validate == 0)
                saved = last or step % every.checkpoint == 0
                # One step stays queued, so that the device is at work while its figures are read;
                # where something is kept of a step, or hangs on it, its own figures come first.
                while len(queued) > (0 if validated or saved or now else 1):
                    row = self._row(queued.pop(0))
                    row["seconds"] = time.perf_counter() - began
                    began += row["seconds"]
                    rates.saw(row)
                    stopper.saw(row)
                    saved |= stopper.done
                    validated |= stopper.done and bool(every.validate)
                    if validated and not queued:
                        row |= self.validate()
                    yield row
                    # After the row: one is then never missing for a step that is not run again. And
                    # before saving: a run that failed in its last step must not go on to its end.
                    self._health.check(row["step"], row)
                    bar.advance(**{short: row[name] for short, name in _SHOWN.items()})
                if saved:
                    save_checkpoint(checkpoint, step=step, **state)
                if validated or saved:
                    began = time.perf_counter()
                if stopper.done:
                    return

    def _probe(self) -> float:
        """How far step 1 leads (`start.probe`); the fresh adapter stays as it is."""
        rerouted = [e for e in self._sampler.step(1) if e.kind == "circuit_breaker"]
        return probe(
            self.parameters,
            self.optimizer,
            step=lambda: self._row(self._step(1, self.passes(1))),
            cosine=lambda: self._measure(rerouted)["reroute_cosine"],
        )

    def validate(self) -> dict[str, float]:
        """Cosines on the held-out records, without dropout: mean over tokens and target layers."""
        if not self._heldout.examples:
            return {}
        found = self._measure(self._heldout.examples)
        return {f"heldout_{name}": cosine for name, cosine in found.items()}

    def _measure(self, examples: Sequence[EncodedExample]) -> dict[str, float]:
        return mean_cosines(
            self.rerouter,
            examples,
            pixels=self._pixels,
            accelerator=self._accelerator,
            at_once=self.recipe.batch_size + self.recipe.retain_batch_size,
            max_tokens=self._plan.max_tokens,
        )

    def adapter(self) -> dict[str, Tensor]:
        """The trained tensors, whole, by their names in the model. All processes must ask."""
        return {name: whole(parameter.detach()) for name, parameter in self.parameters.items()}

    def _step(self, step: int, passes: Sequence[tuple[int, Batch]]) -> _Queued:
        """Queue one optimiser step; nothing here waits for the device."""
        accelerator, objective = self._accelerator, self.rerouter.objective
        device, processes = accelerator.device, accelerator.num_processes
        examples = self._sampler.step(step)
        totals = step_totals(objective, examples, batches=self._sampler.parts)
        self.rerouter.train()
        sums: dict[str, Tensor] = {}
        for number, (micro, batch) in enumerate(passes, start=1):
            last = number == len(passes)
            hold = nullcontext() if last else no_sync(self._wrapped, accelerator=accelerator)
            noise = self.rerouter.noise.of(batch, seed=self._seed, step=step, device=device)
            with hold, noise:
                weights = objective.weights(step, micro=micro)
                outputs = self._wrapped(batch.to(device), weights, totals)
                # A sum over batches and processes, of which the processes will take the mean.
                accelerator.backward(outputs["loss"] * processes)
            for name, value in outputs.items():
                sums[name] = sums.get(name, 0) + value.detach()
        norm = accelerator.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)
        sums["grad_norm"] = whole(norm) / processes
        readout = Readout(sums, accelerator=accelerator)
        self._stepper.step()
        self._stepper.zero_grad()
        weights = objective.weights(step, micro=self.recipe.accumulation - 1)
        known = {
            "reroute_weight": weights.reroute,
            "retain_weight": weights.retain,
            "escape_weight": weights.escape,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "tokens": sum(len(example.input_ids) for example in examples),
            "images": sum(example.image is not None for example in examples),
        }
        return _Queued(step, readout, known)

    def _row(self, queued: _Queued) -> dict[str, Any]:
        """The metrics of a step, once the device has got that far."""
        values = queued.readout.wait()
        check_finite(values, step=queued.step)
        return {"step": queued.step, **values, **queued.known}

    def _plan_passes(
        self, train: ExampleSet, heldout: ExampleSet, memory: int | None, accelerator: Accelerator
    ) -> MemoryPlan:
        """The same plan for all processes, which measure together and cut a step alike."""
        on_cpu = self.rerouter.device.type == "cpu"
        plan = plan_memory(
            self.rerouter,
            budget=memory,
            longest=self.rerouter.objective.least_pass(train.examples + heldout.examples),
            held=self._pixels.max_bytes if on_cpu else 0,
            agree=lambda most: from_main(accelerator, lambda: most),
        )
        self.rerouter.checkpointing = plan.checkpointing
        return plan

    def passes(self, step: int) -> list[tuple[int, Batch]]:
        """This process's passes of a step, each behind the number of its batch."""
        objective, processes = self.rerouter.objective, self._accelerator.num_processes
        shares = objective.deal(
            self._sampler.batches(step), processes=processes, max_tokens=self._plan.max_tokens
        )
        passes = []
        for micro, examples in shares[self._accelerator.process_index]:
            batch = objective.collate(examples, pixels=self._pixels)
            on_gpu = self._accelerator.device.type == "cuda"
            passes.append((micro, batch.pinned() if on_gpu else batch))
        return passes


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl, one for each optimiser step."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
