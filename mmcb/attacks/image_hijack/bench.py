"""What every image attack of a run shares: objectives, running, saving and measuring pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from mmcb.attacks.attempts import make_attempt
from mmcb.attacks.bench import ModelBench
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.parts import ObjectiveMaker
from mmcb.attacks.image_hijack.settings import attack_settings
from mmcb.attacks.image_hijack.subjects import Subject, encode_png, levels_to_image
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.results import StepReport
from mmcb.attacks.resumable import run_to_end
from mmcb.attacks.targets import Label
from mmcb.attacks.transforms import applied
from mmcb.log import ProgressBar
from mmcb.models.loading import LoadedModel
from mmcb.records import Attempt, Scalar
from mmcb.store import write_atomic

_APPLIED = 4
"""Real transforms that a saved picture is measured after."""


@dataclass
class Bench(ModelBench[ImageHijackConfig]):
    """One run's model and settings, made by `make_bench`.

    In the run's folder: `images/clean/NAME.png`, the pictures that attacks begin with;
    `images/base/NAME.png` and `images/defended/NAME.png`, the hijacked ones.

    Args:
        layers: the layers that the adapter rerouted.
    """

    layers: tuple[int, ...] = ()
    objectives: ObjectiveMaker = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objectives = ObjectiveMaker(self.config, self.loaded, self.layers)

    def id(
        self, subject: Subject, label: Label, *, more: Mapping[str, Scalar] | None = None
    ) -> str:
        """Names the attack on one behavior's picture; `more`: settings not of the whole run."""
        return self.attempt_id(subject.behavior, label, picture=subject.clean, more=more)

    def target(self, subjects: Sequence[Subject]) -> TargetObjective:
        """How unlikely the targets of behaviors are, for pictures of the size that theirs have."""
        pairs = [subject.pair for subject in subjects]
        return self.objectives.target(pairs, image_size=subjects[0].size)

    def optimise(
        self,
        attack: ProjectedGradientDescent,
        label: Label,
        *,
        state: Path,
        bar: ProgressBar,
        count: Callable[[StepReport], str],
    ) -> None:
        """Run an attack on `label` to its end, as `run_to_end` does."""
        every = self.config.save_every
        with self.model(label):
            run_to_end(attack, state=state, save_every=every, label=label, bar=bar, count=count)

    def hijacked(self, subject: Subject, label: Label) -> Path:
        """Where the hijacked picture of a behavior is saved."""
        return self.path / "images" / label / subject.name

    def save(self, subject: Subject, label: Label, levels: UInt8[Tensor, "3 H W"]) -> Path:
        """Write a picture as a PNG: its 8-bit levels as they are, nothing is rounded here."""
        path = self.hijacked(subject, label)
        write_atomic(path, encode_png(levels_to_image(levels)))
        return path

    def attempt(
        self,
        subject: Subject,
        label: Label,
        *,
        id_: str,
        measures: Mapping[str, float],
        more: Mapping[str, Scalar] | None = None,
    ) -> Attempt:
        """The record of one finished attack; `more`: settings not of the whole run."""
        height, width = subject.size
        settings = {**self.all_settings(label), **(more or {}), "source": subject.source.name}
        return make_attempt(
            subject.behavior,
            self.attack,
            id_=id_,
            path=self.attempts,
            model=label,
            image=self.hijacked(subject, label),
            measures={**measures, "height": float(height), "width": float(width)},
            settings=settings,
        )

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


def make_bench(
    config: ImageHijackConfig, loaded: LoadedModel, path: Path, layers: tuple[int, ...]
) -> Bench:
    """The bench of a run in the folder `path`."""
    return Bench(config, loaded, path, "image_hijack", attack_settings(config), layers)


def distance(image: UInt8[Tensor, "3 H W"], clean: UInt8[Tensor, "3 H W"]) -> int:
    """Largest change of a pixel, in levels."""
    return int((image.to(torch.int16) - clean.to(torch.int16)).abs().max())
