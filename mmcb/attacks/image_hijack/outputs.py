"""What an attack leaves behind: pictures, attempts, loss curves, and the state to resume from.

In a run's folder:

- `images/clean/NAME.png`: the picture the attack began with.
- `images/base/NAME.png`, `images/defended/NAME.png`: the hijacked pictures.
- `attempts.jsonl`: an Attempt per picture and model, the mark that both are finished.
- `curves.jsonl`: a LossCurve per attempt.
- `state/*.safetensors`: batches under way; gone when they are done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.subjects import Subject, encode_png, levels_to_image
from mmcb.attacks.targets import Label
from mmcb.records import Attempt, Scalar
from mmcb.store import record_id, relative_image, write_atomic

ATTACK = "image_hijack"
_ALWAYS = (
    "epsilon",
    "frame",
    "steps",
    "optimizer",
    "step_size",
    "schedule",
    "momentum",
    "restarts",
    "random_start",
    "stop_loss",
    "target",
    "objective",
    "seed",
)
_ONLY_WITH: tuple[tuple[str, object, tuple[str, ...]], ...] = (
    ("optimizer", "sgd", ("gradient_clip",)),
    ("target", "completion", ("target_tokens",)),
    ("target", "string", ("target_string",)),
    ("objective", "adaptive", ("distance_weight", "distance_ramp")),
    ("start", "base", ("start",)),
    ("universal", True, ("universal", "validate_every", "batch_size")),
    ("patch", "stationary", ("patch", "patch_size")),
    ("patch", "moving", ("patch", "patch_size", "validate_every")),
)
_TRANSFORMED = ("transform_samples", "jpeg_quality", "jpeg_gradient", "validate_every")


def attack_settings(config: ImageHijackConfig) -> dict[str, Scalar]:
    """The settings that an attack's result depends on."""
    names = list(_ALWAYS)
    for name, value, more in _ONLY_WITH:
        if getattr(config, name) == value:
            names += more
    if config.transforms:
        names += _TRANSFORMED
    settings: dict[str, Scalar] = {name: getattr(config, name) for name in dict.fromkeys(names)}
    if config.transforms:
        settings["transforms"] = " ".join(config.transforms)
    return settings


def attempt_id(subject: Subject, weights: str, settings: dict[str, Scalar]) -> str:
    """Names the attack on one behavior's picture of one model with these settings.

    Args:
        subject: the behavior and its picture.
        weights: names the attacked weights, adapter included.
        settings: `attack_settings`.
    """
    parts = json.dumps(settings, sort_keys=True)
    return record_id(subject.behavior.id, subject.source.name, ATTACK, weights, parts)


def hijacked_path(run: Path, subject: Subject, label: Label) -> Path:
    """Where the hijacked picture of a behavior is saved."""
    return run / "images" / label / subject.name


def save_picture(path: Path, levels: UInt8[Tensor, "3 H W"]) -> None:
    """Write a picture as a PNG: its 8-bit levels as they are, nothing is rounded here."""
    write_atomic(path, encode_png(levels_to_image(levels)))


def make_attempt(
    subject: Subject,
    label: Label,
    *,
    id_: str,
    run: Path,
    measures: dict[str, float],
    settings: dict[str, Scalar],
) -> Attempt:
    """The record of one finished attack; a measure that is not a finite number is left out."""
    height, width = subject.size
    measures = {**measures, "height": float(height), "width": float(width)}
    behavior = subject.behavior
    return Attempt(
        id=id_,
        behavior_id=behavior.id,
        attack=ATTACK,
        model=label,
        split=behavior.split,
        category=behavior.category,
        prompt=behavior.prompt,
        image=relative_image(run / "attempts.jsonl", hijacked_path(run, subject, label)),
        measures={name: value for name, value in measures.items() if math.isfinite(value)},
        settings={**settings, "source": subject.source.name},
    )


def universal_id(attempt_ids: Sequence[str]) -> str:
    """Names the one picture behind many attempts."""
    return record_id("universal", *attempt_ids)
