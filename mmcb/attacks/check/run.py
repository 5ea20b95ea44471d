"""Run the attacks that the checks compare, print what they say, write it down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmcb.attacks.check.config import CheckConfig
from mmcb.attacks.check.findings import Finding, Outcome, findings, verdict
from mmcb.attacks.image_hijack.bench import Bench
from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.attacks.image_hijack.parts import make_settings, make_space
from mmcb.attacks.image_hijack.run import prepare, with_targets
from mmcb.attacks.image_hijack.subjects import (
    Subject,
    batches,
    clean_levels,
    levels_to_image,
    pair_with_images,
)
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.resumable import save_state, state_path
from mmcb.attacks.start import start_run
from mmcb.attacks.targets import Label, Targets, load_behaviors, locate_targets
from mmcb.attacks.threat import PixelBall, to_levels
from mmcb.log import ProgressBar, get_logger, progress
from mmcb.store import record_id, write_atomic

RESULTS = "checks.json"

PictureMaker = Callable[[int, Sequence[Subject]], Tensor]

_log = get_logger(__name__)


def run_checks(config: CheckConfig) -> Path:
    """Run the command; returns the run's folder.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    settled, targets = locate_targets(config)
    behaviors = load_behaviors(targets.behaviors, needs_image=True, limit=config.num_behaviors)
    pairs = pair_with_images(behaviors, behaviors_path=targets.behaviors, image_folder=None)
    with start_run(settled, targets) as run:
        bench, subjects = prepare(settled.hijack(), targets, pairs, run, count=None)
        outcomes = Checker(bench, with_targets(bench, subjects)).all(targets)
        found = findings(outcomes)
        _write(run.path / RESULTS, outcomes, found, len(subjects))
        _print(found)
        shutil.rmtree(run.path / "state", ignore_errors=True)
    _log.info("wrote %s", run.path / RESULTS)
    return run.path


@dataclass
class Checker:
    """The attacks on one set of behaviors.

    Args:
        bench: the model and the settings.
        subjects: behaviors with their pictures.
    """

    bench: Bench
    subjects: Sequence[Subject]
    made: dict[tuple[Label, int], UInt8[Tensor, "B 3 H W"]] = field(init=False)

    def __post_init__(self) -> None:
        self.batches = batches(self.subjects, batch_size=self.bench.config.batch_size)
        # Pictures of the plain attack, kept for the transfer.
        self.made = {}

    def all(self, targets: Targets) -> dict[tuple[str, str], Outcome]:
        """Every variant on every model."""
        config = self.bench.config
        variants = {
            "attack": config,
            "unbounded": config.model_copy(
                update={"epsilon": 1.0, "step_size": min(1.0, 4 * config.step_size)}
            ),
            "restart": config.model_copy(update={"random_start": True}),
        }
        outcomes: dict[tuple[str, str], Outcome] = {}
        total = len(targets.labels) * len(variants) * len(self.subjects) * (config.steps + 1)
        with progress(total, "checking attacks") as bar:
            for label in targets.labels:
                for name, settings in variants.items():
                    outcomes[label, name] = self._attacked(label, name, settings, bar)
                outcomes[label, "noise"] = self._shown(label, self._noise)
                if label == "defended":
                    outcomes[label, "transfer"] = self._shown(label, self._made_for_base)
        return outcomes

    def _attacked(
        self, label: Label, name: str, settings: ImageHijackConfig, bar: ProgressBar
    ) -> Outcome:
        """One variant of the attack on one model."""
        parts = []
        for number, batch in enumerate(self.batches):
            objective = self.bench.target(batch)
            ids = [record_id(one.behavior.id, label, name) for one in batch]
            clean = clean_levels(batch).to(self.bench.loaded.device)
            attack = ProjectedGradientDescent(
                make_settings(settings),
                space=make_space(settings, clean, row_ids=ids),
                objective=self.bench.objectives.full(objective, label),
                row_ids=ids,
            )
            # Kept until the run ends: a finished state is a finished attack.
            state = state_path(self.bench.path, ids)
            self.bench.optimise(attack, label, state=state, bar=bar, count=lambda report: name)
            save_state(state, attack.state_dict())
            results = attack.results()
            pictures = torch.stack([result.best for result in results])
            if name == "attack":
                self.made[label, number] = pictures
            shown = self._measure(batch, pictures, label)
            parts.append(
                Outcome(
                    start=tuple(result.start_loss for result in results),
                    best=shown.best,
                    reached=shown.reached,
                    curves=tuple(result.curve for result in results),
                    norms=tuple(result.gradient_norms for result in results),
                )
            )
        return _joined(parts)

    def _shown(self, label: Label, make: PictureMaker) -> Outcome:
        """What pictures do that need no attack on this model."""
        return _joined(
            [
                self._measure(batch, make(number, batch), label)
                for number, batch in enumerate(self.batches)
            ]
        )

    def _noise(self, number: int, batch: Sequence[Subject]) -> UInt8[Tensor, "B 3 H W"]:
        ball = PixelBall(self.bench.config.epsilon)
        points = []
        for subject, clean in zip(batch, clean_levels(batch), strict=True):
            name = record_id(self.bench.config.seed, subject.behavior.id, "noise")
            generator = torch.Generator().manual_seed(int(name, 16) % 2**63)
            points.append(to_levels(ball.random_point(clean, generator=generator)))
        return torch.stack(points)

    def _made_for_base(self, number: int, batch: Sequence[Subject]) -> UInt8[Tensor, "B 3 H W"]:
        return self.made["base", number]

    def _measure(
        self, batch: Sequence[Subject], pictures: UInt8[Tensor, "B 3 H W"], label: Label
    ) -> Outcome:
        images = [levels_to_image(picture) for picture in pictures]
        measures = self.bench.measure(self.bench.target(batch), images, label)
        return Outcome(
            start=(),
            best=tuple(one["loss_png"] for one in measures),
            reached=tuple(bool(one["target_reached"]) for one in measures),
        )


def _joined(parts: Sequence[Outcome]) -> Outcome:
    return Outcome(
        start=tuple(value for part in parts for value in part.start),
        best=tuple(value for part in parts for value in part.best),
        reached=tuple(value for part in parts for value in part.reached),
        curves=tuple(curve for part in parts for curve in part.curves),
        norms=tuple(norms for part in parts for norms in part.norms),
    )


def _write(
    path: Path, outcomes: Mapping[tuple[str, str], Outcome], found: Sequence[Finding], count: int
) -> None:
    result = {
        "n": count,
        "verdict": verdict(found),
        "findings": [asdict(one) for one in found],
        "outcomes": {
            f"{label}.{name}": {
                "loss": outcome.loss,
                "reached": outcome.rate,
                "gradient_norm": outcome.norm,
            }
            for (label, name), outcome in outcomes.items()
        },
    }
    write_atomic(path, json.dumps(result, indent=2) + "\n")


def _print(found: Sequence[Finding]) -> None:
    table = Table(title="Is the attack strong enough?")
    for name in ("check", "", "measured"):
        table.add_column(name)
    for one in found:
        table.add_row(one.name, "ok" if one.ok else "[bold]FAILED[/bold]", one.says)
    console = Console()
    console.print(table)
    console.print(f"{verdict(found)}.", soft_wrap=True, highlight=False)
