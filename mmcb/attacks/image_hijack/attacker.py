"""Batches of pictures against the base and the defended model, resumable in the middle.

Both models are one loaded model, with its adapter switched off for the base. A batch is encoded
once and attacked for each model; the saved PNGs are read again, put through the stock processor,
and their loss is reported beside the optimised one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from mmcb.attacks.image_hijack import outputs
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.subjects import Subject, batches, read_levels
from mmcb.attacks.image_hijack.targets import Label
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.pgd import (
    PGDResult,
    PGDSettings,
    ProjectedGradientDescent,
    StepReport,
)
from mmcb.attacks.threat import PixelBall
from mmcb.errors import MmcbError
from mmcb.generation.images import open_image
from mmcb.log import ProgressBar, progress
from mmcb.models.loading import LoadedModel
from mmcb.records import Attempt, Scalar
from mmcb.store import RecordWriter, existing_ids, folder_hash


@dataclass
class HijackAttacker:
    """One run's work.

    Args:
        config: the resolved settings.
        loaded: the model, with the adapter on it unless only the base is attacked.
        path: the run's folder.
        labels: the models to attack, in order.
    """

    config: ImageHijackConfig
    loaded: LoadedModel
    path: Path
    labels: Sequence[Label]
    done: set[str] = field(init=False)
    finished: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        config = self.config
        self.done = existing_ids(self.path / "attempts.jsonl")
        self.settings = outputs.attack_settings(config)
        self.environment: dict[str, Scalar] = {
            **outputs.environment(self.loaded),
            "base_model": self.loaded.name,
        }
        base = f"{self.loaded.name}@{self.loaded.revision}"
        adapter = "" if config.adapter == "none" else folder_hash(Path(config.adapter))
        self.weights: dict[Label, str] = {"base": base, "defended": f"{base}+{adapter}"}
        self.pgd = PGDSettings(
            ball=PixelBall(config.epsilon),
            steps=config.steps,
            step_size=config.step_size,
            momentum=config.momentum,
            schedule=config.schedule,
            restarts=config.restarts,
            random_start=config.random_start,
            stop_loss=config.stop_loss,
            seed=config.seed,
        )

    def attack(self, subjects: Sequence[Subject]) -> None:
        """Attack every subject that has no attempt yet."""
        wanted = len(subjects) * len(self.labels)
        self.finished = sum(
            self._id(subject, label) in self.done for subject in subjects for label in self.labels
        )
        each = self.pgd.evaluations
        with (
            RecordWriter(self.path / "attempts.jsonl", Attempt) as attempts,
            RecordWriter(self.path / "curves.jsonl", outputs.LossCurve) as curves,
            progress(wanted * each, "hijacking images", initial=self.finished * each) as bar,
        ):
            for batch in batches(subjects, batch_size=self.config.batch_size):
                self._attack_batch(batch, attempts, curves, bar, wanted=wanted)
        # With it go states that no batch asked for any more, after a change of --batch-size.
        shutil.rmtree(self.path / "state", ignore_errors=True)

    def _id(self, subject: Subject, label: Label) -> str:
        return outputs.attempt_id(subject, self.weights[label], self.settings)

    def _attack_batch(
        self,
        batch: Sequence[Subject],
        attempts: RecordWriter,
        curves: RecordWriter,
        bar: ProgressBar,
        *,
        wanted: int,
    ) -> None:
        """One batch against each model; written when both its pictures and its curves are safe."""
        prepared: tuple[list[Subject], TargetObjective] | None = None
        for label in self.labels:
            todo = [subject for subject in batch if self._id(subject, label) not in self.done]
            if not todo:
                continue
            # Encoded once for both models, unless a resumed run lacks different ones of each.
            if prepared is None or prepared[0] != todo:
                prepared = (todo, _objective(self.loaded, todo))
            results = self._optimise(todo, label, prepared[1], bar, wanted=wanted)
            records = self._save(todo, label, results, prepared[1])
            known = existing_ids(curves.path)
            curves.write(
                outputs.make_curve(record, result, steps=self.pgd.steps)
                for record, result in zip(records, results, strict=True)
                if record.id not in known
            )
            attempts.write(records)
            self.finished += len(todo)
            self._state_path(todo, label).unlink(missing_ok=True)

    def _optimise(
        self,
        todo: Sequence[Subject],
        label: Label,
        objective: TargetObjective,
        bar: ProgressBar,
        *,
        wanted: int,
    ) -> list[PGDResult]:
        """Run the attack on one batch, from its saved state if there is one."""
        clean = torch.stack([read_levels(subject.clean) for subject in todo])
        attack = ProjectedGradientDescent(
            self.pgd,
            loss=objective,
            clean=clean.to(self.loaded.device),
            row_ids=[self._id(subject, label) for subject in todo],
        )
        path = self._state_path(todo, label)
        state = outputs.load_state(path)
        if state is not None:
            attack.load_state_dict(state)
            bar.advance(attack.advanced)
        with self._model(label):
            while not attack.done:
                report = _step(attack)
                bar.advance(
                    report.advanced,
                    model=label,
                    step=f"{report.step}/{self.pgd.steps}",
                    loss=report.mean_loss,
                    done=f"{self.finished + report.finished}/{wanted}",
                )
                if attack.evaluated % self.config.save_every == 0:
                    outputs.save_state(path, attack.state_dict())
        return attack.results()

    def _save(
        self,
        todo: Sequence[Subject],
        label: Label,
        results: Sequence[PGDResult],
        objective: TargetObjective,
    ) -> list[Attempt]:
        """Write the pictures, read them again as anyone would, and measure them."""
        paths = [outputs.hijacked_path(self.path, subject, label) for subject in todo]
        for path, result in zip(paths, results, strict=True):
            outputs.save_hijack(path, result)
        rows = torch.arange(len(todo), device=self.loaded.device)
        with self._model(label):
            losses = objective.stock_losses([open_image(path) for path in paths], rows).tolist()
        records = []
        for subject, path, result, loss in zip(todo, paths, results, losses, strict=True):
            linf = _distance(read_levels(path), read_levels(subject.clean))
            outputs.check_in_ball(linf, self.pgd.ball)
            records.append(
                outputs.make_attempt(
                    subject,
                    label,
                    result,
                    id_=self._id(subject, label),
                    run=self.path,
                    loss_png=loss,
                    linf_levels=linf,
                    settings=self.settings,
                    extra_settings={**self.environment, "adapter": self._adapter(label)},
                )
            )
        return records

    def _model(self, label: Label) -> contextlib.AbstractContextManager[None]:
        if label == "base":
            return self.loaded.adapter_disabled()
        return contextlib.nullcontext()

    def _adapter(self, label: Label) -> str:
        return self.config.adapter if label == "defended" else "none"

    def _state_path(self, todo: Sequence[Subject], label: Label) -> Path:
        return outputs.state_path(self.path, [self._id(subject, label) for subject in todo])


def _objective(loaded: LoadedModel, todo: Sequence[Subject]) -> TargetObjective:
    return TargetObjective.prepare(
        loaded,
        prompts=[subject.behavior.prompt for subject in todo],
        targets=[subject.behavior.target for subject in todo],
        image_size=todo[0].size,
    )


def _step(attack: ProjectedGradientDescent) -> StepReport:
    try:
        return attack.step()
    except torch.cuda.OutOfMemoryError as error:
        raise MmcbError(
            "the GPU has too little memory for this batch", hint="lower --batch-size or --max-side"
        ) from error


def _distance(image: UInt8[Tensor, "3 H W"], clean: UInt8[Tensor, "3 H W"]) -> int:
    return int((image.to(torch.int16) - clean.to(torch.int16)).abs().max())
