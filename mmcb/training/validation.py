"""Cosines of adapted and frozen states on examples, without dropout and without a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmcb.training.batches import PixelCache
from mmcb.training.examples import EncodedExample
from mmcb.training.microbatches import cut
from mmcb.training.readout import Readout
from mmcb.training.reroute import Rerouter
from mmcb.training.schedule import Weights

if TYPE_CHECKING:
    from accelerate import Accelerator

NAMES = ("reroute_cosine", "retain_cosine")


class Validator:
    """Measures examples in passes of a stated size, shared out among the processes."""

    def __init__(
        self,
        rerouter: Rerouter,
        *,
        pixels: PixelCache,
        rows: int,
        max_tokens: int | None,
        accelerator: Accelerator,
    ) -> None:
        """Take the model to measure.

        Args:
            rerouter: the model with its adapter.
            pixels: where images come from.
            rows: most examples of a pass.
            max_tokens: most tokens of a pass, padding included; None for no limit.
            accelerator: device and processes.
        """
        self._rerouter = rerouter
        self._pixels = pixels
        self._rows = rows
        self._max_tokens = max_tokens
        self._accelerator = accelerator

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, float]:
        """Mean cosines over tokens and target layers; those of a kind that is not there are not.

        All processes must ask at once.
        """
        self._rerouter.eval()
        chunks = self._chunks(examples)
        zero = torch.zeros((), device=self._accelerator.device)
        sums = {part: zero for name in NAMES for part in (name, f"{name}_tokens")}
        rank, processes = self._accelerator.process_index, self._accelerator.num_processes
        for turn in range(rank, len(chunks) + -len(chunks) % processes, processes):
            # Who has no chunk left runs the last one to keep in step with the others, uncounted.
            counts = float(turn < len(chunks))
            chunk = chunks[min(turn, len(chunks) - 1)]
            batch = self._rerouter.objective.collate(chunk, pixels=self._pixels)
            batch = batch.to(self._accelerator.device)
            with torch.no_grad():
                outputs = self._rerouter(batch, Weights(0.0, 0.0, 0.0))
            for name, marked in zip(NAMES, (batch.rerouted, batch.retained), strict=True):
                tokens = len(marked) * counts
                sums[name] = sums[name] + outputs[name] * tokens
                sums[f"{name}_tokens"] = sums[f"{name}_tokens"] + tokens
        read = Readout(sums, accelerator=self._accelerator).wait()
        return {
            name: read[name] / read[f"{name}_tokens"] for name in NAMES if read[f"{name}_tokens"]
        }

    def _chunks(self, examples: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        """Examples of like length together."""
        ordered = sorted(examples, key=lambda example: len(example.input_ids))
        chunks = []
        for start in range(0, len(ordered), self._rows):
            rows = ordered[start : start + self._rows]
            lengths = [len(example.input_ids) for example in rows]
            chunks += [
                [rows[i] for i in group] for group in cut(lengths, max_tokens=self._max_tokens)
            ]
        return chunks
