"""What the attacks of a run share: one loaded model under two labels, and going on after a kill."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mmcb.attacks.outputs import environment, load_state, save_state
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.results import StepReport
from mmcb.attacks.targets import Label
from mmcb.errors import MmcbError
from mmcb.log import ProgressBar
from mmcb.models.loading import LoadedModel
from mmcb.records import Scalar
from mmcb.store import folder_hash

_OBJECTIVE = "objective."


class BenchSettings(Protocol):
    """The settings that running an attack depends on, whatever it optimises."""

    @property
    def adapter(self) -> str:
        """The adapter's folder, or "none"."""

    @property
    def steps(self) -> int:
        """Gradient steps of a restart."""

    @property
    def save_every(self) -> int:
        """Steps between saved states."""


class Stateful(Protocol):
    """What must be saved with the state of an attack."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a continuation needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        """Continue where `state_dict` was taken."""
        ...


ConfigT = TypeVar("ConfigT", bound=BenchSettings)


def model_labelled(loaded: LoadedModel, label: Label) -> contextlib.AbstractContextManager[None]:
    """Inside, the loaded model is the one called `label`."""
    return loaded.adapter_disabled() if label == "base" else contextlib.nullcontext()


def weights_of(loaded: LoadedModel, adapter: Path | None) -> dict[Label, str]:
    """Names the weights behind each label."""
    base = f"{loaded.name}@{loaded.revision}"
    on_top = "" if adapter is None else folder_hash(adapter)
    return {"base": base, "defended": f"{base}+{on_top}"}


@dataclass
class ModelBench(Generic[ConfigT]):
    """One run's model and settings.

    Args:
        config: the resolved settings.
        loaded: the model, with the adapter on it unless only the base is attacked.
        path: the run's folder.
    """

    config: ConfigT
    loaded: LoadedModel
    path: Path
    environment: dict[str, Scalar] = field(init=False)
    weights: dict[Label, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = environment(self.loaded)
        adapter = None if self.config.adapter == "none" else Path(self.config.adapter)
        self.weights = weights_of(self.loaded, adapter)

    def model(self, label: Label) -> contextlib.AbstractContextManager[None]:
        """Inside, the loaded model is the one called `label`."""
        return model_labelled(self.loaded, label)

    def all_settings(self, label: Label) -> dict[str, Scalar]:
        """What an attempt on `label` records beside the attack's own settings."""
        adapter = self.config.adapter if label == "defended" else "none"
        return {**self.environment, "adapter": adapter}

    def optimise(
        self,
        attack: ProjectedGradientDescent,
        label: Label,
        *,
        state: Path,
        bar: ProgressBar,
        done: Callable[[StepReport], str],
        objective: Stateful | None = None,
    ) -> None:
        """Run an attack to its end, from its saved state if there is one.

        Args:
            attack: what is stepped.
            label: the model under attack.
            state: the file to go on from.
            bar: shows the progress.
            done: how many attempts are finished, in words.
            objective: the attack's objective, where it remembers something.
        """
        saved = load_state(state)
        if saved is not None:
            own = {key: value for key, value in saved.items() if not key.startswith(_OBJECTIVE)}
            attack.load_state_dict(own)
            if objective is not None:
                rest = saved.keys() - own.keys()
                objective.load_state_dict(
                    {key.removeprefix(_OBJECTIVE): saved[key] for key in rest}
                )
            bar.advance(attack.advanced)
        with self.model(label):
            while not attack.done:
                report = _step(attack)
                bar.advance(
                    report.advanced,
                    model=label,
                    step=f"{report.step}/{self.config.steps}",
                    loss=report.mean_loss,
                    done=done(report),
                )
                if attack.evaluated % self.config.save_every == 0:
                    remembered = {} if objective is None else objective.state_dict()
                    more = {f"{_OBJECTIVE}{key}": value for key, value in remembered.items()}
                    save_state(state, attack.state_dict() | more)


def _step(attack: ProjectedGradientDescent) -> StepReport:
    try:
        return attack.step()
    except torch.cuda.OutOfMemoryError as error:
        raise MmcbError(
            "the GPU has too little memory for this batch", hint="lower --batch-size or --max-side"
        ) from error
