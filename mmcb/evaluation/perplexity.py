"""How probable the base model finds each answer: what a tripped model says is often no language.

Every answer to an attack is read by the base model behind the plain request, without the attack's
wrapping, picture or vectors, so that base and defended model are measured alike. Perplexity is
exp of the mean negative log-likelihood of the answer's tokens, the one that ends it left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmcb.attacks.slotted import SlotRow, SlottedTargets
from mmcb.evaluation.verdicts import Item
from mmcb.log import progress
from mmcb.models.loading import LoadedModel, load_model
from mmcb.records import Record
from mmcb.store import RecordWriter, existing_ids, read_records, record_id

FILE = "perplexity.jsonl"


class Surprise(Record):
    """How the base model reads one answer."""

    generation_id: str
    loss: float
    """Mean negative log-likelihood of a token, in nats."""


def measure_missing(
    items: Sequence[Item], *, path: Path, model: str, weights: str, batch_size: int
) -> dict[str, float]:
    """The loss of every answer to an attack that has words, measured once each.

    Args:
        items: the answers; those to benign items are left out.
        path: the JSONL file of what is measured.
        model: the base model; loaded if anything is missing.
        weights: names its weights.
        batch_size: answers read at once; halved by itself when the memory does not do.

    Returns:
        Generation id -> mean negative log-likelihood.
    """
    wanted = {
        record_id("perplexity", item.generation.id, weights): item
        for item in items
        if item.attempt.attack != "task" and not item.failed and item.response.strip()
    }
    done = existing_ids(path)
    missing = {name: item for name, item in wanted.items() if name not in done}
    if missing:
        loaded = load_model(model)
        with RecordWriter(path, Surprise) as writer, progress(len(missing), "perplexity") as bar:
            for batch in _batches(missing, batch_size):
                losses = _losses(loaded, [missing[name] for name in batch])
                writer.write(
                    Surprise(id=name, generation_id=missing[name].generation.id, loss=loss)
                    for name, loss in zip(batch, losses, strict=True)
                )
                bar.advance(len(batch))
    found = read_records(path, Surprise) if wanted else iter(())
    return {one.generation_id: one.loss for one in found if one.id in wanted}


def quartiles(losses: Iterable[float]) -> dict[str, float | int | None]:
    """Median perplexity with the quartiles around it; None for none."""
    values = [math.exp(loss) for loss in losses]
    if not values:
        return {"value": None, "n": 0, "low": None, "high": None}
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"value": middle, "n": len(values), "low": low, "high": high}


def perplexity_table(
    items: Sequence[tuple[str, Item]], losses: Mapping[str, float]
) -> dict[str, Any]:
    """For each model and attack the quartiles of its answers' perplexity.

    Args:
        items: (attack as the table names it, item).
        losses: what `measure_missing` found.
    """
    table: dict[str, dict[str, list[float]]] = {}
    for attack, item in items:
        loss = losses.get(item.generation.id)
        if loss is not None:
            table.setdefault(item.attempt.model, {}).setdefault(attack, []).append(loss)
    return {
        role: {attack: quartiles(found) for attack, found in attacks.items()}
        for role, attacks in table.items()
    }


def _batches(missing: Mapping[str, Item], batch_size: int) -> list[list[str]]:
    """Answers of like length together."""
    names = sorted(missing, key=lambda name: len(missing[name].response))
    return [names[begin : begin + batch_size] for begin in range(0, len(names), batch_size)]


def _losses(loaded: LoadedModel, items: Sequence[Item]) -> list[float]:
    rows = [SlotRow(item.sample.prompt, item.response) for item in items]
    try:
        return _read(loaded, rows)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    half = len(items) // 2
    return _losses(loaded, items[:half]) + _losses(loaded, items[half:])


@torch.no_grad()
def _read(loaded: LoadedModel, rows: Sequence[SlotRow]) -> list[float]:
    targets = SlottedTargets(loaded, rows, num_free=0)
    width = loaded.base.get_input_embeddings().weight.shape[1]
    nothing = torch.zeros(len(rows), 0, width, device=loaded.device, dtype=loaded.dtype)
    forced = targets.run(nothing, torch.arange(len(rows), device=loaded.device))
    losses: list[float] = forced.cross_entropy().tolist()
    return losses
