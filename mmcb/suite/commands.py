"""The commands that a suite may name, each with its settings and the function that runs it.

Imports no torch: what runs is imported when it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmcb.attacks.check.config import CheckConfig
from mmcb.attacks.config import AttackConfig
from mmcb.attacks.embedding.config import EmbeddingConfig
from mmcb.attacks.embedding.presets import PRESETS as EMBEDDING_PRESETS
from mmcb.attacks.gcg.config import GCGConfig
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.presets import PRESETS as HIJACK_PRESETS
from mmcb.attacks.steering.config import SteeringConfig
from mmcb.config import Config
from mmcb.evaluation.config import EvaluationConfig


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `mmcb`, to be run in this process.

    Args:
        settings: its settings' class.
        runner: `module:function` that takes the settings.
        presets: what its `--preset` may be.
        leaves_attempts: its folder can be judged by the evaluation.
    """

    settings: type[Config]
    runner: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    leaves_attempts: bool = True

    @property
    def needs_images(self) -> bool:
        """Whether it attacks only models that take images."""
        return issubclass(self.settings, AttackConfig) and self.settings.needs_images

    def run(self, config: Config) -> None:
        """Run it with these settings; it goes on where it stopped."""
        module, _, function = self.runner.partition(":")
        getattr(importlib.import_module(module), function)(config)


COMMANDS: Mapping[str, Command] = {
    "attacks.image_hijack": Command(
        ImageHijackConfig,
        "mmcb.attacks.image_hijack.run:run_image_hijack",
        presets={str(name): settings for name, settings in HIJACK_PRESETS.items()},
    ),
    "attacks.embedding": Command(
        EmbeddingConfig,
        "mmcb.attacks.embedding.run:run_embedding",
        presets={str(name): settings for name, settings in EMBEDDING_PRESETS.items()},
    ),
    "attacks.gcg": Command(GCGConfig, "mmcb.attacks.gcg.run:run_gcg"),
    "attacks.steering": Command(SteeringConfig, "mmcb.attacks.steering.run:run_steering"),
    "attacks.check": Command(
        CheckConfig,
        "mmcb.attacks.check.run:run_checks",
        leaves_attempts=False,
    ),
    # An evaluation of its own, where answers are to be drawn otherwise: best of n.
    "evaluation": Command(
        EvaluationConfig, "mmcb.evaluation.pipeline:evaluate", leaves_attempts=False
    ),
}
"""By the name that `mmcb` has for it."""
