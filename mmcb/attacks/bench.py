"""What the attacks of a run share: one loaded model under two labels, and how results are named."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch

from mmcb.attacks.config import AttackConfig
from mmcb.attacks.targets import Label
from mmcb.models.loading import LoadedModel
from mmcb.records import AttackName, Behavior, Scalar
from mmcb.store import file_hash, folder_hash, record_id

ConfigT = TypeVar("ConfigT", bound=AttackConfig)


@dataclass
class ModelBench(Generic[ConfigT]):
    """One run's model, attack and settings.

    Args:
        config: the resolved settings.
        loaded: the model, with the adapter on it unless only the base is attacked.
        path: the run's folder.
        attack: the attack's name.
        settings: those that the attack's result depends on.
    """

    config: ConfigT
    loaded: LoadedModel
    path: Path
    attack: AttackName
    settings: Mapping[str, Scalar]
    environment: dict[str, Scalar] = field(init=False)
    weights: dict[Label, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = environment(self.loaded)
        base = f"{self.loaded.name}@{self.loaded.revision}"
        adapter = self.config.adapter
        on_top = "" if adapter == "none" else folder_hash(Path(adapter))
        self.weights = {"base": base, "defended": f"{base}+{on_top}"}
        self._hashes: dict[Path, str] = {}

    @property
    def attempts(self) -> Path:
        """The file of attempts."""
        return self.path / "attempts.jsonl"

    def model(self, label: Label) -> contextlib.AbstractContextManager[None]:
        """Inside, the loaded model is the one called `label`."""
        return self.loaded.adapter_disabled() if label == "base" else contextlib.nullcontext()

    def attempt_id(
        self,
        behavior: Behavior,
        label: Label,
        *,
        picture: Path | None,
        more: Mapping[str, Scalar] | None = None,
    ) -> str:
        """Names the attack on one behavior of one model, by all that its result depends on.

        Args:
            behavior: the behavior, with the target that is aimed at.
            label: the model.
            picture: the picture that the attack starts from or shows; it counts by its content.
            more: settings that are not the whole run's.
        """
        if picture is not None and picture not in self._hashes:
            self._hashes[picture] = file_hash(picture)
        return record_id(
            *(behavior.id, behavior.prompt, behavior.target),
            "" if picture is None else self._hashes[picture],
            *(self.attack, self.weights[label]),
            json.dumps({**self.settings, **(more or {})}, sort_keys=True),
        )

    def all_settings(self, label: Label) -> dict[str, Scalar]:
        """What an attempt on `label` records: the attack's settings, and what else moves it."""
        adapter = self.config.adapter if label == "defended" else "none"
        return {**self.settings, **self.environment, "adapter": adapter}


def environment(loaded: LoadedModel) -> dict[str, Scalar]:
    """What else moves the result: libraries, the processor's backend, device and precision."""
    import PIL
    import torchvision
    import transformers

    facts: dict[str, Scalar] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "base_model": loaded.name,
    }
    if loaded.is_vlm:
        processor = loaded.processor.image_processor
        facts |= {
            "torchvision": torchvision.__version__,
            "pillow": PIL.__version__,
            "image_backend": str(getattr(processor, "backend", type(processor).__name__)),
        }
    return facts
