"""Batches of requests against the base and the defended model, resumable in the middle.

In a run's folder: `attempts.jsonl`, an Attempt per behavior, model and kept iterate;
`embeddings/MODEL/ID.safetensors`, its vectors; `curves.jsonl`, a LossCurve per behavior and model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from mmcb.attacks.attempts import make_attempt
from mmcb.attacks.bench import ModelBench
from mmcb.attacks.embedding.config import EmbeddingConfig
from mmcb.attacks.embedding.samples import SampledObjective
from mmcb.attacks.embeddings import EmbeddingSpace
from mmcb.attacks.ledger import Ledger, make_curve, open_ledger
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.results import PGDResult
from mmcb.attacks.resumable import run_to_end, state_path
from mmcb.attacks.slotted import SlottedObjective, SlottedTargets
from mmcb.attacks.targets import Label
from mmcb.attacks.textrun import TextSubject, batches
from mmcb.records import Attempt
from mmcb.store import record_id, write_atomic

SETTINGS = (
    *("start_text", "target_suffix", "optimizer", "step_size", "steps", "restarts", "radius"),
    *("stop_loss", "samples", "sample_loss", "sample_distance", "seed"),
)
"""What an attack depends on."""


@dataclass
class EmbeddingAttacker:
    """One run's work: vectors for every behavior and model.

    Args:
        bench: the model and the settings.
        labels: the models to attack, in order.
    """

    bench: ModelBench[EmbeddingConfig]
    labels: Sequence[Label]

    def __post_init__(self) -> None:
        config, loaded = self.bench.config, self.bench.loaded
        self.pgd = PGDSettings(
            rule=StepRule(step_size=config.step_size, kind=config.optimizer),
            steps=config.steps,
            restarts=config.restarts,
            stop_loss=config.stop_loss,
            seed=config.seed,
        )
        ids = loaded.tokenizer(config.start_text, add_special_tokens=False).input_ids
        with torch.no_grad():
            start = loaded.base.get_input_embeddings()(torch.tensor([ids], device=loaded.device))
        self._start_1ND: Float[Tensor, "1 N D"] = start.float()

    def attack(self, subjects: Sequence[TextSubject]) -> None:
        """Attack every subject that has no attempt yet."""
        attacks = [[self._id(one, label)] for one in subjects for label in self.labels]
        with open_ledger(
            self.bench.path, attacks, each=self.pgd.evaluations, title="optimising embeddings"
        ) as ledger:
            in_batches = batches(subjects, batch_size=self.bench.config.batch_size)
            for label, todo in ledger.todo(in_batches, self.labels, self._id):
                self._attack_batch(todo, label, ledger)

    def _id(self, subject: TextSubject, label: Label) -> str:
        """The id of the attack; that of its best iterate's attempt."""
        return self.bench.attempt_id(subject.behavior, label, picture=subject.image)

    def _attack_batch(self, todo: Sequence[TextSubject], label: Label, ledger: Ledger) -> None:
        ids = [self._id(one, label) for one in todo]
        targets = SlottedTargets(
            self.bench.loaded, [one.row for one in todo], num_free=self._start_1ND.shape[1]
        )
        attack, objective = self._optimise(targets, ids, label, ledger)
        attempts: list[Attempt] = []
        curves = []
        for row, (subject, result) in enumerate(zip(todo, attack.results(), strict=True)):
            others = [one for one in objective.kept(row) if one[1] != result.best_loss]
            kept = [(result.best, result.best_loss), *others][: self.bench.config.samples]
            reached = self._reached(targets, row, label, [vectors for vectors, _ in kept])
            made = [
                self._save(subject, label, ids[row], result, sample, *iterate, reached[sample])
                for sample, iterate in enumerate(kept)
            ]
            # The best iterate, whose id says that all are there, comes last.
            attempts += reversed(made)
            curves.append(
                make_curve(
                    ids[row],
                    behavior_id=subject.behavior.id,
                    model=label,
                    losses=result.curve,
                    steps=self.pgd.steps,
                )
            )
        ledger.write(attempts, curves, state=state_path(self.bench.path, ids))

    def _optimise(
        self, targets: SlottedTargets, ids: Sequence[str], label: Label, ledger: Ledger
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
        with self.bench.model(label):
            run_to_end(
                attack,
                state=state_path(self.bench.path, ids),
                save_every=config.save_every,
                label=label,
                bar=ledger.bar,
                count=ledger.count,
                memory=objective,
            )
        return attack, objective

    @torch.no_grad()
    def _reached(
        self, targets: SlottedTargets, row: int, label: Label, kept: Sequence[Tensor]
    ) -> list[float]:
        """1 for each of the row's vectors with which greedy decoding writes the target."""
        device = self.bench.loaded.device
        rows = torch.full((len(kept),), row, device=device)
        with self.bench.model(label):
            return targets.run(torch.stack(list(kept)).to(device), rows).reached().float().tolist()

    def _save(
        self,
        subject: TextSubject,
        label: Label,
        id_: str,
        result: PGDResult,
        sample: int,
        vectors: Float[Tensor, "N D"],
        loss: float,
        reached: float,
    ) -> Attempt:
        """Write one iterate's vectors and make its record."""
        own = id_ if sample == 0 else record_id(id_, "sample", sample)
        file = self.bench.path / "embeddings" / label / f"{own}.safetensors"
        write_atomic(file, save({"embeddings": vectors.float().contiguous()}))
        return make_attempt(
            subject.behavior,
            self.bench.attack,
            id_=own,
            path=self.bench.attempts,
            model=label,
            image=subject.image,
            embeddings=file,
            measures={**result.measures, "loss_float": loss, "target_reached": reached},
            settings={**self.bench.all_settings(label), "sample": sample},
        )
