"""Batches of pictures against the base and the defended model, resumable in the middle.

Both models are one loaded model, with its adapter switched off for the base. A batch is encoded
once and attacked for each model; the saved PNGs are read again, put through the stock processor,
and their loss is reported beside the optimised one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmcb.attacks.image_hijack import outputs
from mmcb.attacks.image_hijack.bench import Bench, distance
from mmcb.attacks.image_hijack.parts import make_settings, make_space
from mmcb.attacks.image_hijack.subjects import Subject, batches, read_levels
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.outputs import LossCurve, make_curve, result_measures, state_path
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.pixels import PatchSpace, PixelSpace
from mmcb.attacks.results import PGDResult
from mmcb.attacks.targets import Label
from mmcb.generation.images import open_image
from mmcb.log import ProgressBar, progress
from mmcb.records import Attempt
from mmcb.store import RecordWriter, existing_ids


@dataclass
class HijackAttacker:
    """One run's work: a picture for every behavior.

    Args:
        bench: the model and the settings.
        labels: the models to attack, in order.
    """

    bench: Bench
    labels: Sequence[Label]
    done: set[str] = field(init=False)
    pgd: PGDSettings = field(init=False)
    finished: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.path = self.bench.path
        self.done = existing_ids(self.path / "attempts.jsonl")
        self.pgd = make_settings(self.bench.config)

    def attack(self, subjects: Sequence[Subject]) -> None:
        """Attack every subject that has no attempt yet."""
        wanted = len(subjects) * len(self.labels)
        self.finished = sum(
            self._id(subject, label) in self.done for subject in subjects for label in self.labels
        )
        each = self.pgd.evaluations
        with (
            RecordWriter(self.path / "attempts.jsonl", Attempt) as attempts,
            RecordWriter(self.path / "curves.jsonl", LossCurve) as curves,
            progress(wanted * each, "hijacking images", initial=self.finished * each) as bar,
        ):
            for batch in batches(subjects, batch_size=self.bench.config.batch_size):
                self._attack_batch(batch, attempts, curves, bar, wanted=wanted)
        # With it go states that no batch asked for any more, after a change of --batch-size.
        shutil.rmtree(self.path / "state", ignore_errors=True)

    def _id(self, subject: Subject, label: Label) -> str:
        return outputs.attempt_id(subject, self.bench.weights[label], self.bench.settings)

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
                prepared = (todo, self._objective(todo))
            space = self._space(todo, label)
            results = self._optimise(todo, label, space, prepared[1], bar, wanted=wanted)
            records = self._save(todo, label, space, results, prepared[1])
            known = existing_ids(curves.path)
            curves.write(
                make_curve(
                    record.id,
                    behavior_id=record.behavior_id,
                    model=label,
                    result=result,
                    steps=self.pgd.steps,
                )
                for record, result in zip(records, results, strict=True)
                if record.id not in known
            )
            attempts.write(records)
            self.finished += len(todo)
            self._state_path(todo, label).unlink(missing_ok=True)

    def _objective(self, todo: Sequence[Subject]) -> TargetObjective:
        return self.bench.objectives.target(
            prompts=[subject.behavior.prompt for subject in todo],
            targets=[subject.behavior.target for subject in todo],
            image_size=todo[0].size,
        )

    def _space(self, todo: Sequence[Subject], label: Label) -> PixelSpace | PatchSpace:
        """The clean pictures as what may be changed; for the defended model perhaps moved ahead."""
        device = self.bench.loaded.device
        start = None
        if self.bench.config.start == "base" and label == "defended":
            paths = [outputs.hijacked_path(self.path, subject, "base") for subject in todo]
            start = torch.stack([read_levels(path) for path in paths]).to(device)
        clean = torch.stack([read_levels(subject.clean) for subject in todo]).to(device)
        names = [subject.behavior.id for subject in todo]
        return make_space(self.bench.config, clean, row_ids=names, start=start)

    def _optimise(
        self,
        todo: Sequence[Subject],
        label: Label,
        space: PixelSpace | PatchSpace,
        objective: TargetObjective,
        bar: ProgressBar,
        *,
        wanted: int,
    ) -> list[PGDResult]:
        """Run the attack on one batch, from its saved state if there is one."""
        attack = ProjectedGradientDescent(
            self.pgd,
            space=space,
            objective=self.bench.objectives.full(objective, label),
            row_ids=[self._id(subject, label) for subject in todo],
            selection=self.bench.objectives.selection(),
        )
        self.bench.optimise(
            attack,
            label,
            state=self._state_path(todo, label),
            bar=bar,
            done=lambda report: f"{self.finished + report.finished}/{wanted}",
        )
        return attack.results()

    def _save(
        self,
        todo: Sequence[Subject],
        label: Label,
        space: PixelSpace | PatchSpace,
        results: Sequence[PGDResult],
        objective: TargetObjective,
    ) -> list[Attempt]:
        """Write the pictures, read them again as anyone would, and measure them."""
        ids = [self._id(subject, label) for subject in todo]
        paths = [outputs.hijacked_path(self.path, subject, label) for subject in todo]
        stored = torch.stack([result.best for result in results])
        pictures = space.pictures(stored, row_ids=ids, seed=self.pgd.seed)
        for path, picture in zip(paths, pictures, strict=True):
            outputs.save_picture(path, picture)
        measured = self.bench.measure(objective, [open_image(path) for path in paths], label)
        records = []
        for row, (subject, path, result) in enumerate(zip(todo, paths, results, strict=True)):
            saved, clean = read_levels(path), read_levels(subject.clean)
            space.check_saved(saved, row)
            records.append(
                outputs.make_attempt(
                    subject,
                    label,
                    id_=ids[row],
                    run=self.path,
                    measures={
                        **result_measures(result),
                        **measured[row],
                        "linf_levels": float(distance(saved, clean)),
                    },
                    settings={**self.bench.settings, **self.bench.all_settings(label)},
                )
            )
        return records

    def _state_path(self, todo: Sequence[Subject], label: Label) -> Path:
        return state_path(self.path, [self._id(subject, label) for subject in todo])
