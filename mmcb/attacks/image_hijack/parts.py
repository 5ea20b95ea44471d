"""From the command's settings to the parts of an attack: space, objective, rule, selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from mmcb.attacks.adaptive import AdaptiveObjective
from mmcb.attacks.core import Objective, Selection
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.roles import Pair
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.pgd import PGDSettings
from mmcb.attacks.pixels import PatchSpace, PixelSpace, random_place
from mmcb.attacks.targets import Label
from mmcb.attacks.threat import PixelBall
from mmcb.attacks.transforms import TransformedObjective
from mmcb.attacks.universal import UniversalObjective
from mmcb.models.loading import LoadedModel
from mmcb.store import record_id

DRAWS = 8
"""Fixed draws of transforms or places that an iterate is judged by, where losses are random."""


def make_settings(config: ImageHijackConfig) -> PGDSettings:
    """The budget and the step rule."""
    return PGDSettings(
        rule=StepRule(
            step_size=config.step_size,
            kind=config.optimizer,
            momentum=config.momentum,
            clip=config.gradient_clip,
            schedule=config.schedule,
        ),
        steps=config.steps,
        restarts=config.restarts,
        random_start=config.random_start,
        stop_loss=config.stop_loss,
        seed=config.seed,
    )


def make_space(
    config: ImageHijackConfig,
    clean: UInt8[Tensor, "B 3 H W"],
    *,
    row_ids: Sequence[str],
    start: UInt8[Tensor, "B 3 H W"] | None = None,
) -> PixelSpace | PatchSpace:
    """Whole pictures or patches, as the settings say.

    Args:
        config: the settings.
        clean: clean pictures, on the model's device.
        row_ids: name each picture's place for its patch.
        start: pictures to begin with (whole pictures only).
    """
    ball = PixelBall(config.epsilon)
    if config.patch == "none":
        return PixelSpace(clean, ball=ball, start=start)
    side = max(1, round(config.patch_size * min(clean.shape[2:])))
    places = None
    if config.patch == "stationary":
        places = [
            random_place(clean.shape[2:], (side, side), generator=_generator(config.seed, name))
            for name in row_ids
        ]
    return PatchSpace(clean, ball=ball, size=(side, side), places=places)


@dataclass(frozen=True, slots=True)
class ObjectiveMaker:
    """Makes objectives for one model.

    Args:
        config: the settings.
        loaded: the model.
        layers: the layers that the adapter rerouted, for the adaptive objective.
    """

    config: ImageHijackConfig
    loaded: LoadedModel
    layers: tuple[int, ...]

    def target(self, pairs: Sequence[Pair], *, image_size: tuple[int, int]) -> TargetObjective:
        """How unlikely the targets are, for pictures of (height, width)."""
        return TargetObjective(
            self.loaded,
            prompts=[pair.prompt for pair in pairs],
            targets=[pair.target for pair in pairs],
            image_size=image_size,
        )

    def full(self, target: TargetObjective, label: Label) -> Objective:
        """The objective to attack `label` with: its target, and what else the settings ask for."""
        return self.transformed(self.adapted(target, label))

    def adapted(self, target: TargetObjective, label: Label) -> Objective:
        """With the distance from the frozen model, where there is an adapter to keep quiet."""
        if self.config.objective == "target" or label == "base":
            return target
        return AdaptiveObjective(
            target,
            loaded=self.loaded,
            layers=self.layers,
            weight=self.config.distance_weight,
            ramp=self.config.distance_ramp,
        )

    def universal(self, target: TargetObjective, label: Label, *, count: int) -> Objective:
        """For one picture: the mean over `--batch-size` of `count` behaviors."""
        inner = self.adapted(target, label)
        batch = self.config.batch_size
        return self.transformed(UniversalObjective(inner, count=count, batch=batch))

    def validation(self, target: TargetObjective, *, count: int) -> Selection:
        """Choose a universal picture by all validation behaviors."""
        objective = self.transformed(UniversalObjective(target, count=count, batch=count))
        draws = DRAWS if self.config.transforms else 1
        return Selection(self.config.validate_every, draws=draws, objective=objective)

    def selection(self) -> Selection | None:
        """Fixed draws where single losses are random; else an iterate's own loss decides."""
        if not self.config.transforms and self.config.patch != "moving":
            return None
        return Selection(self.config.validate_every, draws=DRAWS)

    def transformed(self, objective: Objective) -> Objective:
        """The expectation over transforms, if there are any."""
        config = self.config
        if not config.transforms:
            return objective
        return TransformedObjective(
            objective,
            names=config.transforms,
            samples=config.transform_samples,
            jpeg_quality=config.jpeg_quality,
            jpeg_gradient=config.jpeg_gradient,
        )


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(record_id(seed, name, "patch"), 16) % 2**63)
