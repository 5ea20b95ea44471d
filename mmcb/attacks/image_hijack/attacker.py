"""Batches of pictures against the base and the defended model, resumable in the middle.

Both models are one loaded model, with its adapter switched off for the base. A batch is encoded
once and attacked for each model; the saved PNGs are read again, put through the stock processor,
and their loss is reported beside the optimised one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mmcb.attacks.image_hijack.bench import Bench, distance
from mmcb.attacks.image_hijack.parts import make_settings, make_space
from mmcb.attacks.image_hijack.subjects import Subject, batches, clean_levels, read_levels
from mmcb.attacks.ledger import Ledger, make_curve, open_ledger
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.pixels import PatchSpace, PixelSpace
from mmcb.attacks.results import PGDResult
from mmcb.attacks.resumable import state_path
from mmcb.attacks.targets import Label
from mmcb.generation.images import open_image
from mmcb.records import Attempt


@dataclass
class HijackAttacker:
    """One run's work: a picture for every behavior.

    Args:
        bench: the model and the settings.
        labels: the models to attack, in order.
    """

    bench: Bench
    labels: Sequence[Label]
    pgd: PGDSettings = field(init=False)

    def __post_init__(self) -> None:
        self.pgd = make_settings(self.bench.config)

    def attack(self, subjects: Sequence[Subject]) -> None:
        """Attack every subject that has no attempt yet."""
        bench = self.bench
        attacks = [[bench.id(one, label)] for one in subjects for label in self.labels]
        in_batches = batches(subjects, batch_size=bench.config.batch_size)
        prepared: tuple[list[Subject], TargetObjective] | None = None
        with open_ledger(
            bench.path, attacks, each=self.pgd.evaluations, title="hijacking images"
        ) as ledger:
            for label, todo in ledger.todo(in_batches, self.labels, bench.id):
                # Encoded once for both models, unless a resumed run lacks different ones of each.
                if prepared is None or prepared[0] != todo:
                    prepared = (todo, bench.target(todo))
                self._attack_batch(todo, label, prepared[1], ledger)

    def _attack_batch(
        self, todo: Sequence[Subject], label: Label, target: TargetObjective, ledger: Ledger
    ) -> None:
        """One batch against one model; written when its pictures are safe."""
        ids = [self.bench.id(subject, label) for subject in todo]
        state = state_path(self.bench.path, ids)
        space = self._space(todo, label)
        attack = ProjectedGradientDescent(
            self.pgd,
            space=space,
            objective=self.bench.objectives.full(target, label),
            row_ids=ids,
            selection=self.bench.objectives.selection(),
        )
        self.bench.optimise(attack, label, state=state, bar=ledger.bar, count=ledger.count)
        results = attack.results()
        attempts = self._save(todo, label, ids, space, results, target)
        curves = [
            make_curve(
                attempt.id,
                behavior_id=attempt.behavior_id,
                model=label,
                losses=result.curve,
                steps=self.pgd.steps,
            )
            for attempt, result in zip(attempts, results, strict=True)
        ]
        ledger.write(attempts, curves, state=state)

    def _space(self, todo: Sequence[Subject], label: Label) -> PixelSpace | PatchSpace:
        """The clean pictures as what may be changed; for the defended model perhaps moved ahead."""
        device = self.bench.loaded.device
        start = None
        if self.bench.config.start == "base" and label == "defended":
            paths = [self.bench.hijacked(subject, "base") for subject in todo]
            start = torch.stack([read_levels(path) for path in paths]).to(device)
        names = [subject.behavior.id for subject in todo]
        clean = clean_levels(todo).to(device)
        return make_space(self.bench.config, clean, row_ids=names, start=start)

    def _save(
        self,
        todo: Sequence[Subject],
        label: Label,
        ids: Sequence[str],
        space: PixelSpace | PatchSpace,
        results: Sequence[PGDResult],
        target: TargetObjective,
    ) -> list[Attempt]:
        """Write the pictures, read them again as anyone would, and measure them."""
        stored = torch.stack([result.best for result in results])
        pictures = space.pictures(stored, row_ids=ids, seed=self.pgd.seed)
        paths = [
            self.bench.save(subject, label, picture)
            for subject, picture in zip(todo, pictures, strict=True)
        ]
        measured = self.bench.measure(target, [open_image(path) for path in paths], label)
        starts = [result.start_loss for result in results]
        if self.bench.config.patch == "moving":
            # The loop began with a gray square on the picture, not with the picture itself.
            clean = [open_image(subject.clean) for subject in todo]
            starts = [one["loss_png"] for one in self.bench.measure(target, clean, label)]
        attempts = []
        for row, (subject, path, result) in enumerate(zip(todo, paths, results, strict=True)):
            saved = read_levels(path)
            space.check_saved(saved, row)
            measures = {
                **result.measures,
                **measured[row],
                "loss_start": starts[row],
                "linf_levels": float(distance(saved, space.clean[row].cpu())),
            }
            attempts.append(self.bench.attempt(subject, label, id_=ids[row], measures=measures))
        return attempts
