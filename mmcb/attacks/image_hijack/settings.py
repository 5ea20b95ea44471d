"""Which settings an image hijack's result depends on. Imports no torch."""

from __future__ import annotations

from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.records import Scalar

_ALWAYS = (
    "epsilon",
    "frame",
    "max_side",
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
