"""The training loop: a row of metrics a step, checkpoints, validation, resume."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmcb.log import progress
from mmcb.models.loading import LoadedModel
from mmcb.training.batches import PixelCache, prefetched
from mmcb.training.checkpoints import fingerprint_of, load_checkpoint, save_checkpoint
from mmcb.training.examples import ExampleSet
from mmcb.training.health import Health
from mmcb.training.memory import plan_memory
from mmcb.training.processes import from_main
from mmcb.training.recipes import Recipe
from mmcb.training.reroute import Rerouter
from mmcb.training.sharding import parallel, place, whole
from mmcb.training.start import Starter, find_size
from mmcb.training.stepper import Queued, Stepper
from mmcb.training.stopping import Stopper
from mmcb.training.validation import Validator

if TYPE_CHECKING:
    from accelerate import Accelerator

SHOWN = {"reroute": "reroute_loss", "retain": "retain_loss", "cosine": "reroute_cosine"}
"""What the progress bar calls some metrics."""


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
        memory: int | None = None,
    ) -> None:
        """Get ready for step 1.

        Args:
            loaded: a model with a fresh adapter (`reroute.add_adapter`).
            recipe: how to train it.
            train: examples to train on.
            heldout: examples to measure on.
            seed: seed of the order of examples, of dropout and of random directions.
            accelerator: device and processes.
            memory: bytes of each device that training may use: `plan_memory`.

        Raises:
            MmcbError: the longest example needs more memory, or there is nothing to take the
                recipe's reroute target from.
        """
        self.recipe = recipe
        place(loaded, accelerator=accelerator)
        rerouter = Rerouter(loaded, recipe, seed=seed)
        wrapped = parallel(rerouter, accelerator=accelerator)
        pixels = PixelCache(loaded)
        rerouter.aim(train.examples, pixels=pixels, seed=seed)
        plan = plan_memory(
            rerouter,
            budget=memory,
            longest=rerouter.objective.least_pass(train.examples + heldout.examples),
            held=pixels.max_bytes if rerouter.device.type == "cpu" else 0,
            agree=lambda most: from_main(accelerator, lambda: most),
        )
        rerouter.checkpointing = plan.checkpointing
        self.stepper = Stepper(
            rerouter, wrapped, recipe, examples=train.examples, pixels=pixels, plan=plan, seed=seed,
            accelerator=accelerator,
        )  # fmt: skip
        self._measure = Validator(
            rerouter,
            pixels=pixels,
            rows=recipe.batch_size + recipe.retain_batch_size,
            max_tokens=plan.max_tokens,
            accelerator=accelerator,
        )
        self._heldout = heldout.examples
        self._health = Health(steps=recipe.steps)
        self._state: dict[str, Any] = {
            "fingerprint": fingerprint_of(
                recipe, train.examples, seed=seed, revision=loaded.revision
            ),
            "parameters": self.stepper.parameters,
            "optimizer": self.stepper.optimizer,
            "accelerator": accelerator,
        }

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
        done = load_checkpoint(checkpoint, **self._state)
        starter = Starter(self.recipe, probe=self._probe, history=history)
        stopper = Stopper(enabled=self.recipe.stop_early, history=history)
        total = self.recipe.steps
        steps = range(done + 1, done if stopper.done else total + 1)
        prepared = prefetched(self.stepper.prepare, steps)
        queued: list[Queued] = []
        began = time.perf_counter()
        with progress(total, "training", initial=done) as bar:
            for step in steps:
                queued.append(
                    self.stepper.queue(
                        step,
                        next(prepared),
                        learning_rate=starter.learning_rate,
                        most_retain=starter.most_retain,
                    )
                )
                validated = bool(every.validate) and (step == total or step % every.validate == 0)
                saved = step == total or step % every.checkpoint == 0
                # One step stays queued, so that the device is at work while its figures are read;
                # where something hangs on a step, its own figures come first.
                awaited = validated or saved or starter.starting or self.recipe.stop_early
                while len(queued) > (0 if awaited else 1):
                    first = queued.pop(0)
                    row = first.row()
                    arrived = first.readout.arrived_at
                    row["seconds"], began = arrived - began, arrived
                    starter.saw(row)
                    stopper.saw(row)
                    if every.validate and (stopper.done or (validated and not queued)):
                        row |= self.validate()
                        began = time.perf_counter()
                    yield row
                    # After the row: one is then never missing for a step that is not run again. And
                    # before saving: a run that failed in its last step must not go on to its end.
                    self._health.check(row["step"], row)
                    bar.advance(**{shown: row[name] for shown, name in SHOWN.items()})
                if saved or stopper.done:
                    save_checkpoint(checkpoint, step=step, **self._state)
                    began = time.perf_counter()
                if stopper.done:
                    return

    def validate(self) -> dict[str, float]:
        """Cosines on the held-out records, without dropout: mean over tokens and target layers."""
        if not self._heldout:
            return {}
        return {f"heldout_{name}": mean for name, mean in self._measure(self._heldout).items()}

    def adapter(self) -> dict[str, Tensor]:
        """The trained tensors, whole, by their names in the model. All processes must ask."""
        return {name: whole(p.detach()) for name, p in self.stepper.parameters.items()}

    def _probe(self) -> float:
        """How far step 1's direction must be followed: `find_size`. The adapter stays as it is."""
        ways = self.stepper.first_way()
        fresh = {name: p.detach().clone() for name, p in self.stepper.parameters.items()}
        rerouted = [e for e in self.stepper.examples(1) if e.kind == "circuit_breaker"]

        def cosine_at(size: float) -> float:
            self.stepper.place(fresh, ways=ways, by=size)
            return self._measure(rerouted)["reroute_cosine"]

        size = find_size(cosine_at)
        self.stepper.place(fresh)
        return size


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl, one for each optimiser step."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
