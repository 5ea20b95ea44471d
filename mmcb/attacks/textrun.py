"""Opens a run of an attack behind the words of a request: its models, requests and folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mmcb.attacks.bench import ModelBench
from mmcb.attacks.config import TextAttackConfig
from mmcb.attacks.slotted import SlotRow
from mmcb.attacks.start import start_run
from mmcb.attacks.targets import Label, load_behaviors, locate_targets
from mmcb.errors import MmcbError
from mmcb.generation.images import image_size
from mmcb.models.loading import LoadedModel, load_model
from mmcb.records import AttackName, Behavior
from mmcb.store import resolve_image

TextConfigT = TypeVar("TextConfigT", bound=TextAttackConfig)


@dataclass(frozen=True, slots=True)
class TextSubject:
    """A behavior, with the target that is aimed at, and its picture if that is shown."""

    behavior: Behavior
    image: Path | None

    @property
    def row(self) -> SlotRow:
        """As `SlottedTargets` takes it."""
        return SlotRow(self.behavior.prompt, self.behavior.target, self.image)


@dataclass(frozen=True, slots=True)
class TextRun(Generic[TextConfigT]):
    """An open run: its model and settings, the models attacked, and with which requests."""

    bench: ModelBench[TextConfigT]
    labels: Sequence[Label]
    subjects: Sequence[TextSubject]


@contextmanager
def open_run(
    config: TextConfigT,
    attack: AttackName,
    *,
    settings: Sequence[str] = (),
    target_suffix: str = "",
    needs_targets: bool = True,
    least: int = 1,
) -> Iterator[TextRun[TextConfigT]]:
    """Find the models and the requests, start or resume the run, load the model.

    Args:
        config: the command's settings.
        attack: the attack's name.
        settings: names of the settings that its result depends on.
        target_suffix: added to every behavior's target.
        needs_targets: whether the attack aims at targets.
        least: how many behaviors the attack needs.

    Raises:
        MmcbError: for anything that the user can put right.
    """
    settled, targets = locate_targets(config)
    subjects = read_subjects(
        settled, targets.behaviors, target_suffix=target_suffix, needs_targets=needs_targets
    )
    if len(subjects) < least:
        raise MmcbError(
            f"{targets.behaviors}: {len(subjects)} is too few behaviors for {config.command}",
            hint=f"{least} are the least",
        )
    with start_run(settled, targets) as run:
        loaded = load_model(
            targets.model, adapter=targets.adapter, device=config.device, dtype=config.dtype
        )
        check_takes_images(loaded, subjects)
        values = {name: getattr(settled, name) for name in settings}
        bench = ModelBench(settled, loaded, run.path, attack, values)
        yield TextRun(bench, targets.labels, subjects)


def read_subjects(
    config: TextAttackConfig, path: Path, *, target_suffix: str, needs_targets: bool
) -> list[TextSubject]:
    """The behaviors that are attacked.

    Args:
        config: the settings.
        path: the file of behaviors.
        target_suffix: added to every target.
        needs_targets: whether a behavior without one is an error.

    Raises:
        MmcbError: a line is no behavior, none is left, a target is missing, a picture is no good.
    """
    behaviors = load_behaviors(path, needs_target=needs_targets)
    kept = [one for one in behaviors if config.images or one.image is None]
    if not kept:
        raise MmcbError(
            f"{path} holds no behavior without a picture", hint="add --images, or other --behaviors"
        )
    subjects = []
    for one in kept[: config.num_behaviors]:
        image = None if one.image is None else resolve_image(path, one.image)
        if image is not None:
            image_size(image)  # bad pictures are told now, not after hours
        aimed = one.model_copy(update={"target": one.target + target_suffix})
        subjects.append(TextSubject(aimed, image))
    return subjects


def check_takes_images(loaded: LoadedModel, rows: Sequence[TextSubject | SlotRow]) -> None:
    """Pictures need a model that takes them.

    Raises:
        MmcbError: it does not.
    """
    if not loaded.is_vlm and any(row.image for row in rows):
        raise MmcbError(
            f"{loaded.name} takes no images, and there are requests with a picture",
            hint="add --no-images",
        )


def batches(subjects: Sequence[TextSubject], *, batch_size: int) -> list[list[TextSubject]]:
    """Batches in a fixed order, which resuming depends on; requests of like length together."""
    ordered = sorted(
        subjects,
        key=lambda one: (
            one.image is not None,
            len(one.behavior.prompt + one.behavior.target),
        ),
    )
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
