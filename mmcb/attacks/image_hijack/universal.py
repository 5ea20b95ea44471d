"""One picture for many behaviors: made with some, chosen by others, tested on the rest.

Only the test behaviors get attempts, so that no number is of behaviors the picture was made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmcb.attacks.image_hijack.bench import Bench, distance
from mmcb.attacks.image_hijack.parts import make_settings, make_space
from mmcb.attacks.image_hijack.roles import Roles
from mmcb.attacks.image_hijack.subjects import Subject, clean_levels, read_levels
from mmcb.attacks.ledger import Ledger, make_curve, open_ledger
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.results import PGDResult
from mmcb.attacks.resumable import state_path
from mmcb.attacks.targets import Label
from mmcb.attacks.threat import from_levels
from mmcb.generation.images import open_image
from mmcb.records import Attempt
from mmcb.store import record_id


@dataclass
class UniversalAttacker:
    """One run's work: one picture for each model.

    Args:
        bench: the model and the settings.
        labels: the models to attack, in order.
        roles: which requests and targets train, validate and test.
    """

    bench: Bench
    labels: Sequence[Label]
    roles: Roles

    def attack(self, subject: Subject) -> None:
        """Make the pictures that are not finished, starting from the subject's."""
        tests = [replace(subject, behavior=behavior) for behavior in self.roles.test]
        ids = {label: [self._id(test, label) for test in tests] for label in self.labels}
        with open_ledger(
            self.bench.path,
            list(ids.values()),
            each=make_settings(self.bench.config).evaluations,
            title="hijacking one image for all",
        ) as ledger:
            for label in self.labels:
                if not ledger.done.issuperset(ids[label]):
                    self._attack_model(tests, label, ids[label], ledger)

    def _attack_model(
        self, tests: Sequence[Subject], label: Label, ids: Sequence[str], ledger: Ledger
    ) -> None:
        """Make one model's picture, and test it."""
        name = record_id("universal", *ids)
        state = state_path(self.bench.path, [name])
        attack = self._make(tests[0], label, name)
        self.bench.optimise(attack, label, state=state, bar=ledger.bar, count=ledger.count)
        (result,) = attack.results()
        curve = make_curve(
            name,
            behavior_id="universal",
            model=label,
            losses=result.curve,
            steps=attack.settings.steps,
        )
        ledger.write(self._save(tests, label, ids, result), [curve], state=state)

    def _id(self, test: Subject, label: Label) -> str:
        return self.bench.id(test, label, more={"roles": self.roles.id})

    def _make(self, subject: Subject, label: Label, name: str) -> ProjectedGradientDescent:
        makers, config = self.bench.objectives, self.bench.config
        train, validation = (
            makers.target(pairs, image_size=subject.size)
            for pairs in (self.roles.train, self.roles.validation)
        )
        clean = clean_levels([subject]).to(self.bench.loaded.device)
        return ProjectedGradientDescent(
            make_settings(config),
            space=make_space(config, clean, row_ids=[name]),
            objective=makers.universal(train, label, count=len(self.roles.train)),
            row_ids=[name],
            selection=makers.validation(validation, count=len(self.roles.validation)),
        )

    def _save(
        self, tests: Sequence[Subject], label: Label, ids: Sequence[str], result: PGDResult
    ) -> list[Attempt]:
        """Write the picture, read it again, and measure it on every test behavior."""
        bench = self.bench
        path = bench.save(tests[0], label, result.best)
        saved, clean = read_levels(path), clean_levels(tests[:1])
        make_space(bench.config, clean, row_ids=["saved"]).check_saved(saved, 0)
        attempts = []
        for begin in range(0, len(tests), bench.config.batch_size):
            some = tests[begin : begin + bench.config.batch_size]
            target = bench.target(some)
            after, before = (
                bench.measure(target, [open_image(file)] * len(some), label)
                for file in (path, tests[0].clean)
            )
            optimised = self._twin(target, saved, label, len(some))
            for row, test in enumerate(some):
                measures = {
                    **result.measures,
                    **after[row],
                    "loss_start": before[row]["loss_png"],
                    "loss_float": float(optimised[row]),
                    "loss_validation": result.best_loss,
                    "linf_levels": float(distance(saved, clean[0])),
                }
                attempts.append(
                    bench.attempt(
                        test,
                        label,
                        id_=ids[begin + row],
                        measures=measures,
                        more=self.roles.summary(),
                    )
                )
        return attempts

    @torch.no_grad()
    def _twin(self, target: TargetObjective, saved: Tensor, label: Label, count: int) -> Tensor:
        """The picture's loss on each behavior by the differentiable path."""
        image = from_levels(saved)[None].to(self.bench.loaded.device)
        rows = torch.arange(count, device=self.bench.loaded.device)
        with self.bench.model(label):
            return target.force(target.embed(image, rows), rows).cross_entropy()
