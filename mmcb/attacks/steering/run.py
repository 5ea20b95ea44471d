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

from mmcb.attacks.attempts import make_attempt
from mmcb.attacks.bench import ModelBench
from mmcb.attacks.slotted import SlotRow, SlottedTargets
from mmcb.attacks.steering.config import SteeringConfig
from mmcb.attacks.targets import Label
from mmcb.attacks.textrun import TextSubject, check_takes_images, open_run
from mmcb.errors import MmcbError
from mmcb.log import ProgressBar, get_logger, progress
from mmcb.models.loading import LoadedModel
from mmcb.records import Attempt, Scalar, Task
from mmcb.store import read_records, record_id, replace_records, resolve_image, write_atomic

_DEPTH = 0.6

_log = get_logger(__name__)


def run_steering(config: SteeringConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    harmless = _harmless(config)
    with open_run(config, "steering", needs_targets=False, least=2) as run:
        check_takes_images(run.bench.loaded, harmless)
        # By a hash, so that neither part is a block of one category.
        ordered = sorted(run.subjects, key=lambda one: record_id("steering", one.behavior.id))
        count = min(len(ordered) - 1, max(1, round(config.fit_share * len(ordered))))
        harmful = [SlotRow(one.behavior.prompt, "", one.image) for one in ordered[:count]]
        total = len(run.labels) * (len(harmful) + len(harmless))
        with progress(total, "reading requests") as bar:
            made = [
                attempt
                for label in run.labels
                for attempt in _attempts(run.bench, label, harmful, harmless, ordered[count:], bar)
            ]
        replace_records(run.bench.attempts, made)
        _log.info("wrote %s", run.bench.attempts)
    return run.bench.path


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
        missing = "task" if config.images else "task without a picture"
        raise MmcbError(f"{config.harmless} holds no {missing}", hint="give another --harmless")
    return rows


def _attempts(
    bench: ModelBench[SteeringConfig],
    label: Label,
    harmful: Sequence[SlotRow],
    harmless: Sequence[SlotRow],
    subjects: Sequence[TextSubject],
    bar: ProgressBar,
) -> list[Attempt]:
    """Save the direction of one model, and make the attempts that run without it."""
    config, loaded = bench.config, bench.loaded
    depth = len(loaded.decoder_layers)
    layer = config.layer or max(1, round(_DEPTH * depth))
    if layer > depth:
        raise MmcbError(f"--layer {layer}: {loaded.name} has {depth} blocks")
    with bench.model(label):
        means = [
            _mean_state(loaded, rows, layer=layer, batch_size=config.batch_size, bar=bar)
            for rows in (harmful, harmless)
        ]
    direction = means[0] - means[1]
    file = bench.path / "directions" / f"{label}.safetensors"
    write_atomic(file, save({"direction": direction.contiguous()}))
    settings: dict[str, Scalar] = {
        "layer": layer,
        "num_harmful": len(harmful),
        "num_harmless": len(harmless),
        "fit_share": config.fit_share,
    }
    return [
        make_attempt(
            one.behavior,
            bench.attack,
            id_=bench.attempt_id(one.behavior, label, picture=one.image, more=settings),
            path=bench.attempts,
            model=label,
            image=one.image,
            steering=file,
            measures={"direction_norm": float(direction.norm())},
            settings={**settings, **bench.all_settings(label)},
        )
        for one in subjects
    ]


@torch.no_grad()
def _mean_state(
    loaded: LoadedModel, rows: Sequence[SlotRow], *, layer: int, batch_size: int, bar: ProgressBar
) -> Float[Tensor, " D"]:
    """Mean of `hidden_states[layer]` where the answer is to begin, in float32 on the CPU."""
    width = loaded.base.get_input_embeddings().weight.shape[1]
    total = torch.zeros(width, dtype=torch.float64)
    for begin in range(0, len(rows), batch_size):
        batch = SlottedTargets(loaded, rows[begin : begin + batch_size], num_free=0)
        total += batch.last_states(layer).double().cpu().sum(dim=0)
        bar.advance(len(batch.slotted))
    return (total / len(rows)).float()
