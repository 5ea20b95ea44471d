"""One optimiser step of all processes: its examples, its passes, its gradient, its update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmcb.training.batches import Batch, PixelCache, Sampler
from mmcb.training.examples import EncodedExample
from mmcb.training.health import check_finite
from mmcb.training.memory import MemoryPlan
from mmcb.training.objective import StepTotals, step_totals
from mmcb.training.readout import Readout
from mmcb.training.recipes import Recipe
from mmcb.training.reroute import Rerouter
from mmcb.training.schedule import Weights
from mmcb.training.sharding import no_sync, optimizer_for, whole

if TYPE_CHECKING:
    from accelerate import Accelerator


class Prepared(NamedTuple):
    """What a process needs to take a step; made ahead, by a thread."""

    passes: list[tuple[int, Batch]]
    """Its passes, each behind the number of its batch."""
    totals: StepTotals
    """What these must know of the whole step."""
    tokens: int
    """Tokens of the whole step, without padding."""
    images: int
    """Examples of the whole step with an image."""


class Queued(NamedTuple):
    """An optimiser step that the device may still be at."""

    step: int
    readout: Readout
    known: dict[str, float]
    """What its row holds besides what the device computes."""

    def row(self) -> dict[str, Any]:
        """The metrics of the step, once the device has got that far.

        Raises:
            MmcbError: a loss or the gradient is not finite.
        """
        values = self.readout.wait()
        check_finite(values, step=self.step)
        return {"step": self.step, **values, **self.known}


class Stepper:
    """Takes optimiser steps. A step is a function of the weights before it and of (seed, step)."""

    def __init__(
        self,
        rerouter: Rerouter,
        wrapped: Any,
        recipe: Recipe,
        *,
        examples: Sequence[EncodedExample],
        pixels: PixelCache,
        plan: MemoryPlan,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        """Get ready for step 1.

        Args:
            rerouter: computes the losses.
            wrapped: the same, as all processes run it together.
            recipe: how to train.
            examples: what to train on.
            pixels: where their images come from.
            plan: how large a pass may be.
            seed: seed of the order of examples and of dropout.
            accelerator: device and processes. A step's examples are shared out among these, and
                the trajectory does not depend on how many they are.
        """
        self.rerouter = rerouter
        self._wrapped = wrapped
        self._recipe = recipe
        self._pixels = pixels
        self._plan = plan
        self._seed = seed
        self._accelerator = accelerator
        self.parameters = {n: p for n, p in rerouter.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=0.0
        )
        self._update = optimizer_for(self.optimizer, wrapped, accelerator)
        self._sampler = Sampler(
            examples,
            batch_sizes=(recipe.batch_size, recipe.retain_batch_size),
            seed=seed,
            alternate=recipe.alternate,
            accumulation=recipe.accumulation,
        )

    def examples(self, step: int) -> list[EncodedExample]:
        """All examples of a step, counted from 1."""
        return self._sampler.step(step)

    def prepare(self, step: int) -> Prepared:
        """This process's passes of a step, and what is known of the whole step."""
        objective, processes = self.rerouter.objective, self._accelerator.num_processes
        batches = self._sampler.batches(step)
        shares = objective.deal(batches, processes=processes, max_tokens=self._plan.max_tokens)
        passes = []
        for micro, examples in shares[self._accelerator.process_index]:
            batch = objective.collate(examples, pixels=self._pixels)
            on_gpu = self._accelerator.device.type == "cuda"
            passes.append((micro, batch.pinned() if on_gpu else batch))
        everything = [example for batch in batches for example in batch]
        return Prepared(
            passes,
            step_totals(objective, everything, batches=self._sampler.parts),
            tokens=sum(len(example.input_ids) for example in everything),
            images=sum(example.image is not None for example in everything),
        )

    def queue(
        self,
        step: int,
        prepared: Prepared,
        *,
        learning_rate: float,
        most_retain: float = math.inf,
    ) -> Queued:
        """Queue one optimiser step; nothing here waits for the device.

        Args:
            step: its number.
            prepared: by `prepare`, for this step.
            learning_rate: of this step.
            most_retain: its retain weight is this at most.
        """
        accelerator = self._accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        sums = self._accumulate(step, prepared, most_retain=most_retain)
        norm = accelerator.clip_grad_norm_(self.parameters.values(), self._recipe.max_grad_norm)
        sums["grad_norm"] = whole(norm) / accelerator.num_processes
        readout = Readout(sums, accelerator=accelerator)
        self._update.step()
        self._update.zero_grad()
        weights = self._weights(step, self._recipe.accumulation - 1, most_retain)
        known = {
            "reroute_weight": weights.reroute,
            "retain_weight": weights.retain,
            "escape_weight": weights.escape,
            "learning_rate": learning_rate,
            "tokens": prepared.tokens,
            "images": prepared.images,
        }
        return Queued(step, readout, known)

    def first_way(self) -> dict[str, Tensor]:
        """Where step 1 takes each weight, for a learning rate of 1; the weights stay as they are.

        AdamW's first step is its learning rate times the signs of the gradient.
        """
        fresh = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.queue(1, self.prepare(1), learning_rate=1.0)
        ways = {name: p.detach() - fresh[name] for name, p in self.parameters.items()}
        self.optimizer.state.clear()
        self.place(fresh)
        return ways

    @torch.no_grad()
    def place(
        self, at: Mapping[str, Tensor], *, ways: Mapping[str, Tensor] | None = None, by: float = 0.0
    ) -> None:
        """Put the weights somewhere, or so far along some ways from there."""
        for name, parameter in self.parameters.items():
            parameter.copy_(at[name] if ways is None else at[name] + by * ways[name])

    def _weights(self, step: int, micro: int, most_retain: float) -> Weights:
        weights = self.rerouter.objective.weights(step, micro=micro)
        return replace(weights, retain=min(weights.retain, most_retain))

    def _accumulate(
        self, step: int, prepared: Prepared, *, most_retain: float
    ) -> dict[str, Tensor]:
        """Run the passes forward and backward; this process's sums of losses and monitors."""
        accelerator, rerouter = self._accelerator, self.rerouter
        rerouter.train()
        sums: dict[str, Tensor] = {}
        for number, (micro, batch) in enumerate(prepared.passes, start=1):
            last = number == len(prepared.passes)
            hold = nullcontext() if last else no_sync(self._wrapped, accelerator=accelerator)
            noise = rerouter.noise.of(batch, seed=self._seed, step=step, device=accelerator.device)
            with hold, noise:
                weights = self._weights(step, micro, most_retain)
                outputs = self._wrapped(batch.to(accelerator.device), weights, prepared.totals)
                # A sum over batches and processes, of which the processes will take the mean.
                accelerator.backward(outputs["loss"] * accelerator.num_processes)
            for name, value in outputs.items():
                sums[name] = sums.get(name, 0) + value.detach()
        return sums
