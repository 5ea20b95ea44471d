"""What every image attack of a run shares: the settings, the objectives, and measuring pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from mmcb.attacks.bench import ModelBench
from mmcb.attacks.image_hijack import outputs
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.parts import ObjectiveMaker
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.targets import Label
from mmcb.attacks.transforms import applied
from mmcb.records import Scalar

_APPLIED = 4
"""Real transforms that a saved picture is measured after."""


@dataclass
class Bench(ModelBench[ImageHijackConfig]):
    """One run's model and settings.

    Args:
        config: the resolved settings.
        loaded: the model, with the adapter on it unless only the base is attacked.
        path: the run's folder.
        layers: the layers that the adapter rerouted.
    """

    layers: tuple[int, ...] = ()
    settings: dict[str, Scalar] = field(init=False)
    objectives: ObjectiveMaker = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings = outputs.attack_settings(self.config)
        self.objectives = ObjectiveMaker(self.config, self.loaded, self.layers)

    def measure(
        self, objective: TargetObjective, pictures: Sequence[Image.Image], label: Label
    ) -> list[dict[str, float]]:
        """What saved pictures do, through the stock processor: a dict for each row.

        `loss_png`; `target_reached`, 1 where greedy decoding writes the whole target; and with
        transforms `loss_transformed`, after real ones.
        """
        rows = torch.arange(len(pictures), device=self.loaded.device)
        with self.model(label):
            forced = objective.stock(pictures, rows)
            measures = {
                "loss_png": forced.cross_entropy().tolist(),
                "target_reached": forced.reached().float().tolist(),
            }
            if self.config.transforms:
                transformed = self._after_transforms(objective, pictures, rows)
                measures["loss_transformed"] = transformed.tolist()
        return [
            {name: values[row] for name, values in measures.items()} for row in range(len(rows))
        ]

    def _after_transforms(
        self, objective: TargetObjective, pictures: Sequence[Image.Image], rows: Int64[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Mean loss over real transforms, drawn apart from those of the attack."""
        config = self.config
        total = torch.zeros(len(rows), device=rows.device)
        for draw in range(_APPLIED):
            changed = [
                applied(one, config.transforms, quality=config.jpeg_quality, seed=draw)
                for one in pictures
            ]
            total += objective.stock(changed, rows).cross_entropy()
        return total / _APPLIED


def distance(image: UInt8[Tensor, "3 H W"], clean: UInt8[Tensor, "3 H W"]) -> int:
    """Largest change of a pixel, in levels."""
    return int((image.to(torch.int16) - clean.to(torch.int16)).abs().max())
