"""One picture for several behaviors a step: its tokens once, or once for each behavior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.attack.plain import BALL, STEP, PlainLoop
from benchmarks.attack.timing import Timer, held_mib, print_rates, print_result
from mmcb.attacks.core import Losses, Moment, Objective
from mmcb.attacks.forcing import Embedded
from mmcb.attacks.objective import TargetObjective
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.pgd import PGDSettings, ProjectedGradientDescent
from mmcb.attacks.pixels import PixelSpace
from mmcb.attacks.universal import UniversalObjective
from mmcb.models.loading import LoadedModel


class _PictureForEach:
    """Every behavior's row with a copy of the picture's tokens; the tower still runs once."""

    passes = 1

    def __init__(self, target: TargetObjective) -> None:
        self._target = target

    def __call__(self, images: Tensor, rows: Tensor, moment: Moment) -> Losses:
        own, common = self._target.embed(images, rows)
        assert common is not None
        whole = torch.cat([common.expand(len(rows), -1, -1), own], dim=1)
        losses = self._target.force(Embedded(whole), rows).cross_entropy()
        return Losses(losses, losses)


def measure_universal(
    ours: LoadedModel,
    plain: LoadedModel,
    pairs: Sequence[tuple[str, str]],
    clean: Tensor,
    *,
    steps: int,
    model: str,
) -> None:
    """Time all variants in turns and print the table.

    Args:
        ours: the model that our objectives freeze.
        plain: the plain loop's, of the same weights.
        pairs: requests and targets, all of them at every step.
        clean: the picture's levels, (3, H, W).
        steps: steps to time, after one of warm-up.
        model: what to call the model.
    """
    prompts, targets = zip(*pairs, strict=True)
    size = (clean.shape[1], clean.shape[2])
    target = TargetObjective(ours, prompts=prompts, targets=targets, image_size=size)
    attacks = {
        "picture for each": _attack(_PictureForEach(target), clean, len(pairs), steps, ours),
        "picture once": _attack(target, clean, len(pairs), steps, ours),
    }
    loop = PlainLoop(plain, clean, list(pairs))
    timers = {name: Timer(ours.device) for name in ("plain loop", *attacks)}
    held = {}
    for name, attack in attacks.items():
        held[name] = held_mib(attack.step, ours.model)
    loop.step()
    for _ in range(steps + 1):
        timers["plain loop"].time(loop.step)
        for name, attack in attacks.items():
            timers[name].time(attack.step)
    curves = [list(attack.results()[0].curve) for attack in attacks.values()]
    apart = [
        max(abs(a - b) for a, b in zip(curves[1], one, strict=True))
        for one in (curves[0], loop.losses)
    ]
    common = target.tokens.num_common - target.tokens.num_fixed
    own = target.tokens.ids(torch.arange(len(pairs)), start=target.tokens.num_common).shape[1]
    print(
        f"{model}, {len(pairs)} behaviors, {steps} steps each; {common} tokens once, {own} each\n"
    )
    rates = {name: timer.rates(len(pairs)) for name, timer in timers.items()}
    ratio = print_rates(rates)
    print(f"\nMean loss {curves[1][0]:.4f} to {curves[1][-1]:.4f}; the curves of our two differ by")
    print(f"at most {apart[0]:.2g}, from the plain loop's by {apart[1]:.2g}. Held for a gradient:")
    print(", ".join(f"{name} {mib:.1f} MiB" for name, mib in held.items()) + ".")
    print_result(
        rates,
        ratio,
        device=ours.device,
        ratio_to_plain_loop_cpu_time=round(rates["picture once"][1] / rates["plain loop"][1], 3),
        curves_differ_by=apart,
        held_mib={name: round(mib, 1) for name, mib in held.items()},
        tokens={"common": common, "own": own},
        model=model,
        batch_size=len(pairs),
        steps=steps,
    )


def _attack(
    objective: Objective, clean: Tensor, count: int, steps: int, loaded: LoadedModel
) -> ProjectedGradientDescent:
    return ProjectedGradientDescent(
        # Two more than are timed, and one that takes no gradient.
        PGDSettings(rule=StepRule(step_size=STEP), steps=steps + 2, stop_loss=-1.0),
        space=PixelSpace(clean[None].to(loaded.device), ball=BALL),
        objective=UniversalObjective(objective, count=count, batch=count),
        row_ids=["picture"],
    )
