"""Running an attack to its end so that a kill costs a few steps: its state is saved on the way.

In a run's folder: `state/*.safetensors`, batches under way, gone when they are done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmcb.attacks.results import StepReport
from mmcb.attacks.targets import Label
from mmcb.errors import MmcbError
from mmcb.log import ProgressBar
from mmcb.store import record_id, write_atomic

_MEMORY = "objective."


class Stateful(Protocol):
    """What a continuation must be told."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a continuation needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        """Continue where `state_dict` was taken."""
        ...


class Resumable(Stateful, Protocol):
    """An attack on a batch, step by step."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""

    @property
    def evaluated(self) -> int:
        """Iterates evaluated so far."""

    @property
    def advanced(self) -> int:
        """Evaluations spent or saved so far, of all rows together."""

    def step(self) -> StepReport:
        """Do the next step."""
        ...


def run_to_end(
    attack: Resumable,
    *,
    state: Path,
    save_every: int,
    label: Label,
    bar: ProgressBar,
    count: Callable[[StepReport], str],
    memory: Stateful | None = None,
) -> None:
    """Step an attack until it is done, from its saved state if there is one.

    Args:
        attack: what is stepped.
        state: the file to go on from.
        save_every: steps between saved states.
        label: the model under attack, for the bar.
        bar: shows the progress.
        count: what is finished, in words.
        memory: what else remembers something, such as the attack's objective.

    Raises:
        MmcbError: the GPU's memory is too small.
    """
    saved = load_state(state)
    if saved is not None:
        kept = {name for name in saved if name.startswith(_MEMORY)}
        attack.load_state_dict({name: saved[name] for name in saved.keys() - kept})
        if memory is not None:
            memory.load_state_dict({name.removeprefix(_MEMORY): saved[name] for name in kept})
        bar.advance(attack.advanced)
    while not attack.done:
        report = _step(attack)
        bar.advance(
            report.advanced,
            model=label,
            step=f"{report.step}/{report.steps}",
            loss=report.mean_loss,
            done=count(report),
        )
        if attack.evaluated % save_every == 0:
            more = {} if memory is None else memory.state_dict()
            save_state(state, attack.state_dict() | {_MEMORY + k: v for k, v in more.items()})


def _step(attack: Resumable) -> StepReport:
    try:
        return attack.step()
    except torch.OutOfMemoryError as error:
        raise MmcbError(
            "the GPU has too little memory for this batch",
            hint="lower --batch-size or, for pictures, --max-side",
        ) from error


def state_path(run: Path, attempt_ids: Sequence[str]) -> Path:
    """The state file of a batch, named by exactly the attempts it makes."""
    return run / "state" / f"{record_id(*attempt_ids)}.safetensors"


def save_state(path: Path, state: dict[str, Tensor]) -> None:
    """Write the state of a batch under way, whole or not at all."""
    write_atomic(path, save(state))


def load_state(path: Path) -> dict[str, Tensor] | None:
    """The saved state of a batch; None when there is none or the file is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
