"""Cosines of chosen examples, as they stand between two steps."""

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


def mean_cosines(
    rerouter: Rerouter,
    examples: Sequence[EncodedExample],
    *,
    pixels: PixelCache,
    accelerator: Accelerator,
    at_once: int,
    max_tokens: int | None,
) -> dict[str, float]:
    """Cosines of adapted and frozen states, without dropout: mean over tokens and target layers.

    Args:
        rerouter: the model.
        examples: what to measure on; the processes share them out among them.
        pixels: where images come from.
        accelerator: the processes; all of them must ask.
        at_once: examples of like length that passes are cut from.
        max_tokens: tokens of a pass, padding included; None for no limit.

    Returns:
        `reroute_cosine` and `retain_cosine`, where the examples have such tokens.
    """
    rerouter.eval()
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    chunks = [
        [ordered[i : i + at_once][index] for index in group]
        for i in range(0, len(ordered), at_once)
        for group in cut(
            [len(example.input_ids) for example in ordered[i : i + at_once]], max_tokens=max_tokens
        )
    ]
    names = ("reroute_cosine", "retain_cosine")
    zero = torch.zeros((), device=accelerator.device)
    sums = {part: zero for name in names for part in (name, f"{name}_tokens")}
    rank, processes = accelerator.process_index, accelerator.num_processes
    for place in range(rank, len(chunks) + -len(chunks) % processes, processes):
        # Who has no chunk left runs the last one to keep in step with the others, uncounted.
        counts = float(place < len(chunks))
        chunk = chunks[min(place, len(chunks) - 1)]
        batch = rerouter.objective.collate(chunk, pixels=pixels).to(accelerator.device)
        with torch.no_grad():
            outputs = rerouter(batch, Weights(0.0, 0.0, 0.0))
        for name, marked in zip(names, (batch.rerouted, batch.retained), strict=True):
            tokens = len(marked) * counts
            sums[name] = sums[name] + outputs[name] * tokens
            sums[f"{name}_tokens"] = sums[f"{name}_tokens"] + tokens
    read = Readout(sums, accelerator=accelerator).wait()
    return {n: read[n] / read[f"{n}_tokens"] for n in names if read[f"{n}_tokens"]}
