"""Opens a run of an attack behind the words of a request: its models, requests and folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mmcb.attacks.config import TextAttackConfig
from mmcb.attacks.start import start_run
from mmcb.attacks.targets import Targets, locate_targets
from mmcb.attacks.textbench import TextSubject, read_subjects
from mmcb.errors import MmcbError
from mmcb.models.loading import LoadedModel, load_model

ConfigT = TypeVar("ConfigT", bound=TextAttackConfig)


@dataclass(frozen=True, slots=True)
class TextRun(Generic[ConfigT]):
    """An open run: the settings, what is attacked, with which requests, and where it is kept."""

    config: ConfigT
    targets: Targets
    loaded: LoadedModel
    subjects: Sequence[TextSubject]
    path: Path


@contextmanager
def open_run(
    config: ConfigT, *, target_suffix: str = "", least: int = 1
) -> Iterator[TextRun[ConfigT]]:
    """Find the models and the requests, start or resume the run, load the model.

    Args:
        config: the command's settings.
        target_suffix: added to every behavior's target.
        least: how many behaviors the attack needs.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    settled, targets = locate_targets(config)
    subjects = read_subjects(settled, targets.behaviors, target_suffix=target_suffix)
    if len(subjects) < least:
        raise MmcbError(
            f"{targets.behaviors}: {len(subjects)} is too few behaviors for {config.command}",
            hint=f"{least} are the least",
        )
    with start_run(settled, targets) as run:
        loaded = load_model(
            targets.model, adapter=targets.adapter, device=config.device, dtype=config.dtype
        )
        _check_takes_images(loaded, subjects)
        yield TextRun(settled, targets, loaded, subjects, run.path)


def _check_takes_images(loaded: LoadedModel, subjects: Sequence[TextSubject]) -> None:
    """Pictures need a model that takes them.

    Raises:
        MmcbError: it does not.
    """
    if not loaded.is_vlm and any(subject.image for subject in subjects):
        raise MmcbError(
            f"{loaded.name} takes no images, and there are behaviors with a picture",
            hint="add --no-images",
        )
