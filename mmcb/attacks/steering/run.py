"""The steering command: a direction per model, and attempts that run without it.

Source: Arditi et al. (arXiv 2406.11717): the difference of the mean hidden states of harmful and of
harmless requests at their last token, taken out behind every block. The circuit breakers' paper
steers with RepE's directions instead (added, by PCA).

Shapes: B requests, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from mmcb.attacks.bench import model_labelled, weights_of
from mmcb.attacks.outputs import environment
from mmcb.attacks.slotted import SlotRow, SlottedTargets
from mmcb.attacks.steering.config import SteeringConfig
from mmcb.attacks.targets import Label
from mmcb.attacks.textbench import TextSubject
from mmcb.attacks.textrun import TextRun, open_run
from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.models.loading import LoadedModel
from mmcb.records import Attempt, Scalar, Task
from mmcb.store import (
    read_records,
    record_id,
    relative_image,
    replace_records,
    resolve_image,
    write_atomic,
)

ATTACK = "steering"
_DEPTH = 0.6

_log = get_logger(__name__)


def run_steering(config: SteeringConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    harmless = _harmless(config)
    with open_run(config, least=2) as run:
        # By a hash, so that neither part is a block of one category.
        ordered = sorted(run.subjects, key=lambda one: record_id("steering", one.behavior.id))
        count = min(len(ordered) - 1, max(1, round(config.fit_share * len(ordered))))
        fit = [SlotRow(one.behavior.prompt, "", one.image) for one in ordered[:count]]
        made = [
            attempt
            for label in run.targets.labels
            for attempt in _attempts(run, label, fit, harmless, ordered[count:])
        ]
        replace_records(run.path / "attempts.jsonl", made)
        _log.info("wrote %s", run.path / "attempts.jsonl")
    return run.path


def _harmless(config: SteeringConfig) -> list[SlotRow]:
    if not config.harmless.is_file():
        raise MmcbError(
            f"--harmless {config.harmless}: there is no such file",
            hint="give a JSONL file of Task records, or write one with python -m mmcb.miniature",
        )
    rows = [
        SlotRow(
            task.prompt,
            "",
            None if task.image is None else resolve_image(config.harmless, task.image),
        )
        for task in read_records(config.harmless, Task)
        if config.images or task.image is None
    ]
    if not rows:
        raise MmcbError(f"{config.harmless} holds no task without a picture", hint="add --images")
    return rows


def _attempts(
    run: TextRun[SteeringConfig],
    label: Label,
    harmful: Sequence[SlotRow],
    harmless: Sequence[SlotRow],
    subjects: Sequence[TextSubject],
) -> list[Attempt]:
    """Save the direction of one model, and make the attempts that run without it."""
    config, loaded = run.config, run.loaded
    depth = len(loaded.decoder_layers)
    layer = config.layer or max(1, round(_DEPTH * depth))
    if layer > depth:
        raise MmcbError(f"--layer {layer}: {loaded.name} has {depth} blocks")
    with model_labelled(loaded, label):
        means = [
            _mean_state(loaded, rows, layer=layer, batch_size=config.batch_size)
            for rows in (harmful, harmless)
        ]
    direction = means[0] - means[1]
    file = run.path / "directions" / f"{label}.safetensors"
    write_atomic(file, save({"direction": direction.contiguous()}))
    settings: dict[str, Scalar] = {
        "layer": layer,
        "num_harmful": len(harmful),
        "num_harmless": len(harmless),
        "fit_share": config.fit_share,
    }
    weights = weights_of(loaded, run.targets.adapter)[label]
    lines = run.path / "attempts.jsonl"
    adapter = run.targets.adapter_name if label == "defended" else "none"
    return [
        Attempt(
            id=one.attempt_id(ATTACK, weights, settings),
            behavior_id=one.behavior.id,
            attack=ATTACK,
            model=label,
            split=one.behavior.split,
            category=one.behavior.category,
            prompt=one.behavior.prompt,
            image=None if one.image is None else relative_image(lines, one.image),
            measures={"direction_norm": float(direction.norm())},
            settings={**settings, **environment(loaded), "adapter": adapter},
            steering=relative_image(lines, file),
        )
        for one in subjects
    ]


@torch.no_grad()
def _mean_state(
    loaded: LoadedModel, rows: Sequence[SlotRow], *, layer: int, batch_size: int
) -> Float[Tensor, " D"]:
    """Mean of `hidden_states[layer]` where the answer is to begin, in float32 on the CPU."""
    width = loaded.base.get_input_embeddings().weight.shape[1]
    total = torch.zeros(width, dtype=torch.float64)
    for begin in range(0, len(rows), batch_size):
        batch = SlottedTargets(loaded, rows[begin : begin + batch_size], num_free=0)
        total += batch.last_states(layer).double().cpu().sum(dim=0)
    return (total / len(rows)).float()
