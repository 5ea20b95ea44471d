"""What every attack of a run shares: the model under its two labels, names, saving, measuring."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from mmcb.attacks.image_hijack import outputs
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.parts import ObjectiveMaker
from mmcb.attacks.image_hijack.targets import Label
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.results import StepReport
from mmcb.attacks.transforms import applied
from mmcb.errors import MmcbError
from mmcb.log import ProgressBar
from mmcb.models.loading import LoadedModel
from mmcb.records import Scalar
from mmcb.store import folder_hash

_APPLIED = 4
"""Real transforms that a saved picture is measured after."""


@dataclass
class Bench:
    """One run's model and settings.

    Args:
        config: the resolved settings.
        loaded: the model, with the adapter on it unless only the base is attacked.
        path: the run's folder.
        layers: the layers that the adapter rerouted.
    """

    config: ImageHijackConfig
    loaded: LoadedModel
    path: Path
    layers: tuple[int, ...] = ()
    settings: dict[str, Scalar] = field(init=False)
    environment: dict[str, Scalar] = field(init=False)
    weights: dict[Label, str] = field(init=False)
    objectives: ObjectiveMaker = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.settings = outputs.attack_settings(config)
        self.environment = {
            **outputs.environment(self.loaded),
            "base_model": self.loaded.name,
        }
        base = f"{self.loaded.name}@{self.loaded.revision}"
        adapter = "" if config.adapter == "none" else folder_hash(Path(config.adapter))
        self.weights = {"base": base, "defended": f"{base}+{adapter}"}
        self.objectives = ObjectiveMaker(config, self.loaded, self.layers)

    def model(self, label: Label) -> contextlib.AbstractContextManager[None]:
        """Inside, the loaded model is the one called `label`."""
        if label == "base":
            return self.loaded.adapter_disabled()
        return contextlib.nullcontext()

    def all_settings(self, label: Label) -> dict[str, Scalar]:
        """What an attempt on `label` records beside the attack's own settings."""
        adapter = self.config.adapter if label == "defended" else "none"
        return {**self.environment, "adapter": adapter}

    def optimise(
        self,
        attack: ProjectedGradientDescent,
        label: Label,
        *,
        state: Path,
        bar: ProgressBar,
        done: Callable[[StepReport], str],
    ) -> None:
        """Run an attack to its end, from its saved state if there is one."""
        saved = outputs.load_state(state)
        if saved is not None:
            attack.load_state_dict(saved)
            bar.advance(attack.advanced)
        with self.model(label):
            while not attack.done:
                report = _step(attack)
                bar.advance(
                    report.advanced,
                    model=label,
                    step=f"{report.step}/{self.config.steps}",
                    loss=report.mean_loss,
                    done=done(report),
                )
                if attack.evaluated % self.config.save_every == 0:
                    outputs.save_state(state, attack.state_dict())

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


def _step(attack: ProjectedGradientDescent) -> StepReport:
    try:
        return attack.step()
    except torch.cuda.OutOfMemoryError as error:
        raise MmcbError(
            "the GPU has too little memory for this batch", hint="lower --batch-size or --max-side"
        ) from error
