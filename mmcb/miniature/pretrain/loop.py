"""The one training loop of pretraining: AdamW, warm-up and decay, checkpoints that resume.

A batch is a pure function of (seed, step), so a run that was killed goes on as if it had not been.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmcb.log import get_logger, progress
from mmcb.store import write_atomic

_LOG = get_logger(__name__)
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Plan(NamedTuple):
    """How long and how fast one stage learns."""

    name: str
    steps: int
    learning_rate: float
    warmup: int = 40
    final_share: float = 0.03
    checkpoint_every: int = 100


def fit(
    module: nn.Module, loss_at: Callable[[int], Tensor], *, plan: Plan, folder: Path
) -> list[float]:
    """Trains the module's parameters that require a gradient; returns the loss of every step.

    Args:
        module: what learns; its state is written to and resumed from `folder`.
        loss_at: the loss of a step's batch, a pure function of the step but for the parameters.
        plan: steps and learning rate.
        folder: where `<name>.safetensors` and `<name>.json` are kept.
    """
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    decayed = [p for p in parameters.values() if p.ndim >= 2]
    plain = [p for p in parameters.values() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=plan.learning_rate,
        betas=(0.9, 0.98),
    )
    losses = _resume(parameters, optimizer, plan=plan, folder=folder)
    with progress(plan.steps, plan.name, initial=len(losses)) as bar:
        for step in range(len(losses), plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * _schedule(step, plan)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_at(step)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            bar.advance(1, loss=sum(losses[-20:]) / len(losses[-20:]))
            if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
                _save(parameters, optimizer, losses, plan=plan, folder=folder)
    return losses


def _schedule(step: int, plan: Plan) -> float:
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    left = (plan.steps - step) / max(1, plan.steps - plan.warmup)
    return plan.final_share + (1 - plan.final_share) * left


def _save(
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    *,
    plan: Plan,
    folder: Path,
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter.detach().contiguous()
        # What a stage leaves aside (a norm behind the features in use) has no moments.
        if parameter in optimizer.state:
            for key in _MOMENTS:
                tensors[f"{key}/{name}"] = optimizer.state[parameter][key].contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{plan.name}.safetensors.part"
    # The curve first: a kill in between leaves a curve that is longer than the weights are old.
    write_atomic(folder / f"{plan.name}.json", json.dumps({"losses": losses}))
    save_file(tensors, temporary, metadata={"step": str(len(losses))})
    temporary.replace(folder / f"{plan.name}.safetensors")


def _resume(
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    plan: Plan,
    folder: Path,
) -> list[float]:
    weights, curve = folder / f"{plan.name}.safetensors", folder / f"{plan.name}.json"
    if not (weights.exists() and curve.exists()):
        return []
    with safe_open(weights, framework="pt") as file:
        step = int(file.metadata()["step"])
    losses: list[float] = json.loads(curve.read_text())["losses"][:step]
    tensors = load_file(weights)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            if f"{_MOMENTS[0]}/{name}" in tensors:
                moments = {key: tensors[f"{key}/{name}"] for key in _MOMENTS}
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(len(losses))),
                    **moments,
                }
    _LOG.info("%s: resuming at step %d of %d", plan.name, len(losses), plan.steps)
    return losses
