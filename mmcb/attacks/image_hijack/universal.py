"""One picture for many behaviors: made with some, chosen by others, tested on the rest.

Only the test behaviors get attempts, so that no number is of behaviors the picture was made with.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmcb.attacks.image_hijack import outputs
from mmcb.attacks.image_hijack.bench import Bench, distance
from mmcb.attacks.image_hijack.parts import make_settings, make_space
from mmcb.attacks.image_hijack.roles import Roles
from mmcb.attacks.image_hijack.subjects import Subject, read_levels
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.outputs import LossCurve, make_curve, result_measures, state_path
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.results import PGDResult
from mmcb.attacks.targets import Label
from mmcb.generation.images import open_image
from mmcb.log import progress
from mmcb.records import Attempt
from mmcb.store import RecordWriter, existing_ids


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
        path = self.bench.path
        tests = [replace(subject, behavior=behavior) for behavior in self.roles.test]
        settings = make_settings(self.bench.config)
        wanted = settings.evaluations * len(self.labels)
        with (
            RecordWriter(path / "attempts.jsonl", Attempt) as attempts,
            RecordWriter(path / "curves.jsonl", LossCurve) as curves,
            progress(wanted, "hijacking one image for all") as bar,
        ):
            for label in self.labels:
                ids = [self._id(test, label) for test in tests]
                known = existing_ids(attempts.path)
                if known.issuperset(ids):
                    bar.advance(settings.evaluations)
                    continue
                name = outputs.universal_id(ids)
                state = state_path(path, [name])
                attack = self._make(subject, label, name)
                self.bench.optimise(
                    attack, label, state=state, bar=bar, done=lambda report: f"step {report.step}"
                )
                result = attack.results()[0]
                records = self._save(tests, label, ids, result)
                if name not in existing_ids(curves.path):
                    curve = make_curve(
                        name,
                        behavior_id="universal",
                        model=label,
                        result=result,
                        steps=settings.steps,
                    )
                    curves.write([curve])
                attempts.write(record for record in records if record.id not in known)
                state.unlink(missing_ok=True)
        shutil.rmtree(path / "state", ignore_errors=True)

    def _id(self, test: Subject, label: Label) -> str:
        return outputs.attempt_id(
            test, self.bench.weights[label], {**self.bench.settings, "roles": self.roles.id}
        )

    def _make(self, subject: Subject, label: Label, name: str) -> ProjectedGradientDescent:
        makers, device = self.bench.objectives, self.bench.loaded.device
        train, validation = (
            makers.target(
                prompts=[pair.prompt for pair in pairs],
                targets=[pair.target for pair in pairs],
                image_size=subject.size,
            )
            for pairs in (self.roles.train, self.roles.validation)
        )
        return ProjectedGradientDescent(
            make_settings(self.bench.config),
            space=make_space(
                self.bench.config, read_levels(subject.clean)[None].to(device), row_ids=[name]
            ),
            objective=makers.universal(train, label, count=len(self.roles.train)),
            row_ids=[name],
            selection=makers.validation(validation, count=len(self.roles.validation)),
        )

    def _save(
        self, tests: Sequence[Subject], label: Label, ids: Sequence[str], result: PGDResult
    ) -> list[Attempt]:
        """Write the picture, read it again, and measure it on every test behavior."""
        bench = self.bench
        path = outputs.hijacked_path(bench.path, tests[0], label)
        outputs.save_picture(path, result.best)
        saved, clean = read_levels(path), read_levels(tests[0].clean)
        make_space(bench.config, clean[None], row_ids=["saved"]).check_saved(saved, 0)
        records = []
        for begin in range(0, len(tests), bench.config.batch_size):
            some = tests[begin : begin + bench.config.batch_size]
            objective = self._test_objective(some)
            after = bench.measure(objective, [open_image(path)] * len(some), label)
            before = bench.measure(objective, [open_image(some[0].clean)] * len(some), label)
            optimised = self._twin(objective, saved, label, len(some))
            for row, test in enumerate(some):
                measures = {
                    **result_measures(result),
                    **after[row],
                    "loss_start": before[row]["loss_png"],
                    "loss_float": float(optimised[row]),
                    "loss_validation": result.best_loss,
                    "linf_levels": float(distance(saved, clean)),
                }
                records.append(
                    outputs.make_attempt(
                        test,
                        label,
                        id_=ids[begin + row],
                        run=bench.path,
                        measures=measures,
                        settings={
                            **bench.settings,
                            **bench.all_settings(label),
                            **self.roles.summary(),
                        },
                    )
                )
        return records

    def _test_objective(self, tests: Sequence[Subject]) -> TargetObjective:
        return self.bench.objectives.target(
            prompts=[test.behavior.prompt for test in tests],
            targets=[test.behavior.target for test in tests],
            image_size=tests[0].size,
        )

    @torch.no_grad()
    def _twin(self, objective: TargetObjective, saved: Tensor, label: Label, count: int) -> Tensor:
        image = (saved.float() / 255)[None].to(self.bench.loaded.device)
        rows = torch.arange(count, device=self.bench.loaded.device)
        with self.bench.model(label):
            return objective.force(objective.embed(image, rows), rows).cross_entropy()
