"""Batches of requests against the base and the defended model, resumable in the middle.

In a run's folder: `attempts.jsonl`, an Attempt per behavior, model and kept iterate;
`embeddings/MODEL/ID.safetensors`, its vectors; `curves.jsonl`, a LossCurve per behavior and model.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from mmcb.attacks.bench import ModelBench
from mmcb.attacks.embedding.config import EmbeddingConfig
from mmcb.attacks.embedding.samples import SampledObjective
from mmcb.attacks.embeddings import EmbeddingSpace
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.outputs import LossCurve, make_curve, result_measures, state_path
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.results import PGDResult
from mmcb.attacks.slotted import SlottedObjective, SlottedTargets
from mmcb.attacks.targets import Label
from mmcb.attacks.textbench import TextSubject, batches
from mmcb.log import ProgressBar, progress
from mmcb.records import Attempt, Scalar
from mmcb.store import RecordWriter, existing_ids, record_id, relative_image, write_atomic

ATTACK = "embedding"
_SETTINGS = (
    "start_text",
    "target_suffix",
    "optimizer",
    "step_size",
    "steps",
    "restarts",
    "radius",
    "stop_loss",
    "samples",
    "sample_loss",
    "sample_distance",
    "seed",
)


@dataclass
class EmbeddingAttacker:
    """One run's work: vectors for every behavior and model.

    Args:
        bench: the model and the settings.
        labels: the models to attack, in order.
    """

    bench: ModelBench[EmbeddingConfig]
    labels: Sequence[Label]
    settings: dict[str, Scalar] = field(init=False)
    pgd: PGDSettings = field(init=False)
    done: set[str] = field(init=False)
    finished: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        config = self.bench.config
        self.settings = {name: getattr(config, name) for name in _SETTINGS}
        self.done = existing_ids(self.bench.path / "attempts.jsonl")
        self.pgd = PGDSettings(
            rule=StepRule(step_size=config.step_size, kind=config.optimizer),
            steps=config.steps,
            restarts=config.restarts,
            stop_loss=config.stop_loss,
            seed=config.seed,
        )
        ids = self.bench.loaded.tokenizer(config.start_text, add_special_tokens=False).input_ids
        embed = self.bench.loaded.base.get_input_embeddings()
        with torch.no_grad():
            start = embed(torch.tensor([ids], device=self.bench.loaded.device))
        self._start_1ND: Float[Tensor, "1 N D"] = start.float()

    def attack(self, subjects: Sequence[TextSubject]) -> None:
        """Attack every subject that has no attempt yet."""
        path, each = self.bench.path, self.pgd.evaluations
        wanted = len(subjects) * len(self.labels)
        self.finished = sum(
            self._id(one, label) in self.done for one in subjects for label in self.labels
        )
        with (
            RecordWriter(path / "attempts.jsonl", Attempt) as attempts,
            RecordWriter(path / "curves.jsonl", LossCurve) as curves,
            progress(wanted * each, "optimising embeddings", initial=self.finished * each) as bar,
        ):
            for batch in batches(subjects, batch_size=self.bench.config.batch_size):
                for label in self.labels:
                    todo = [one for one in batch if self._id(one, label) not in self.done]
                    if todo:
                        self._attack_batch(todo, label, attempts, curves, bar, wanted=wanted)
        shutil.rmtree(path / "state", ignore_errors=True)

    def _id(self, subject: TextSubject, label: Label) -> str:
        """The id of the attack; that of its best iterate's attempt."""
        return subject.attempt_id(ATTACK, self.bench.weights[label], self.settings)

    def _attack_batch(
        self,
        todo: Sequence[TextSubject],
        label: Label,
        attempts: RecordWriter,
        curves: RecordWriter,
        bar: ProgressBar,
        *,
        wanted: int,
    ) -> None:
        ids = [self._id(one, label) for one in todo]
        targets = SlottedTargets(
            self.bench.loaded, [one.row for one in todo], num_free=self._start_1ND.shape[1]
        )
        attack, objective = self._optimise(targets, ids, label, bar, wanted=wanted)
        for row, (subject, result) in enumerate(zip(todo, attack.results(), strict=True)):
            others = [one for one in objective.kept(row) if one[1] != result.best_loss]
            kept = [(result.best, result.best_loss), *others][: self.bench.config.samples]
            records = self._save(subject, label, ids[row], result, kept)
            self._measure(targets, row, label, records, kept)
            if ids[row] not in existing_ids(curves.path):
                behavior = subject.behavior.id
                curves.write(
                    [
                        make_curve(
                            ids[row],
                            behavior_id=behavior,
                            model=label,
                            result=result,
                            steps=self.pgd.steps,
                        )
                    ]
                )
            # The best iterate, whose id says that all are there, comes last.
            attempts.write([one for one in reversed(records) if one.id not in self.done])
        self.finished += len(todo)
        state_path(self.bench.path, ids).unlink(missing_ok=True)

    def _optimise(
        self,
        targets: SlottedTargets,
        ids: Sequence[str],
        label: Label,
        bar: ProgressBar,
        *,
        wanted: int,
    ) -> tuple[ProjectedGradientDescent, SampledObjective]:
        """Run the attack on one batch, from its saved state if there is one."""
        config = self.bench.config
        start = self._start_1ND.expand(len(ids), -1, -1)
        objective = SampledObjective(
            SlottedObjective(targets),
            start,
            samples=config.samples,
            # A single sample is the best iterate, which the loop keeps.
            loss=config.sample_loss if config.samples > 1 else -1.0,
            distance=config.sample_distance,
        )
        attack = ProjectedGradientDescent(
            self.pgd,
            space=EmbeddingSpace(start, radius=config.radius or None),
            objective=objective,
            row_ids=ids,
        )
        self.bench.optimise(
            attack,
            label,
            state=state_path(self.bench.path, ids),
            bar=bar,
            done=lambda report: f"{self.finished + report.finished}/{wanted}",
            objective=objective,
        )
        return attack, objective

    def _measure(
        self,
        targets: SlottedTargets,
        row: int,
        label: Label,
        records: list[Attempt],
        kept: Sequence[tuple[Tensor, float]],
    ) -> None:
        """Put whether greedy decoding writes the target into the records, from what was saved."""
        device = self.bench.loaded.device
        rows = torch.full((len(kept),), row, device=device)
        with torch.no_grad(), self.bench.model(label):
            forced = targets.run(torch.stack([vectors for vectors, _ in kept]).to(device), rows)
            reached = forced.reached().float().tolist()
        for index, record in enumerate(records):
            measures = {**record.measures, "target_reached": reached[index]}
            records[index] = record.model_copy(update={"measures": measures})

    def _save(
        self,
        subject: TextSubject,
        label: Label,
        id_: str,
        result: PGDResult,
        kept: Sequence[tuple[Tensor, float]],
    ) -> list[Attempt]:
        """Write the vectors and make their records, the best iterate's first."""
        records = []
        for sample, (vectors, loss) in enumerate(kept):
            own = id_ if sample == 0 else record_id(id_, "sample", sample)
            file = self.bench.path / "embeddings" / label / f"{own}.safetensors"
            write_atomic(file, save({"embeddings": vectors.float().contiguous()}))
            measures = {**result_measures(result), "loss_float": loss}
            records.append(self._attempt(subject, label, own, file, sample, measures))
        return records

    def _attempt(
        self,
        subject: TextSubject,
        label: Label,
        id_: str,
        file: Path,
        sample: int,
        measures: dict[str, float],
    ) -> Attempt:
        behavior, lines = subject.behavior, self.bench.path / "attempts.jsonl"
        image = None if subject.image is None else relative_image(lines, subject.image)
        return Attempt(
            id=id_,
            behavior_id=behavior.id,
            attack=ATTACK,
            model=label,
            split=behavior.split,
            category=behavior.category,
            prompt=behavior.prompt,
            image=image,
            measures={name: value for name, value in measures.items() if math.isfinite(value)},
            settings={**self.settings, **self.bench.all_settings(label), "sample": sample},
            embeddings=relative_image(lines, file),
        )
