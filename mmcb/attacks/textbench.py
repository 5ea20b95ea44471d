"""What attacks behind the words of a request share: their requests, in batches, and attempt ids."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mmcb.attacks.config import TextAttackConfig
from mmcb.attacks.slotted import SlotRow
from mmcb.attacks.targets import load_behaviors
from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.records import Attempt, Behavior, Scalar
from mmcb.store import file_hash, read_records, record_id, resolve_image

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TextSubject:
    """A behavior, its picture if it is shown, and the target the attack aims at."""

    behavior: Behavior
    image: Path | None
    target: str

    @property
    def row(self) -> SlotRow:
        """As `SlottedTargets` takes it."""
        return SlotRow(self.behavior.prompt, self.target, self.image)

    def attempt_id(self, attack: str, weights: str, settings: Mapping[str, Scalar]) -> str:
        """Names the attack on this behavior with these weights and settings."""
        picture = "" if self.image is None else file_hash(self.image)
        parts = json.dumps(dict(settings), sort_keys=True)
        return record_id(
            self.behavior.id, self.behavior.prompt, self.target, picture, attack, weights, parts
        )


def read_subjects(
    config: TextAttackConfig, path: Path, *, target_suffix: str = ""
) -> list[TextSubject]:
    """The behaviors that are attacked.

    Args:
        config: the settings.
        path: the file of behaviors.
        target_suffix: added to every target.

    Raises:
        MmcbError: a line is no behavior, none is left, a picture is missing.
    """
    behaviors = load_behaviors(path, needs_image=False, limit=None)
    kept = [one for one in behaviors if config.images or one.image is None]
    kept = kept[: config.num_behaviors]
    if not kept:
        raise MmcbError(
            f"{path} holds no behavior without a picture", hint="add --images, or other --behaviors"
        )
    subjects = []
    for one in kept:
        image = None if one.image is None else resolve_image(path, one.image)
        if image is not None and not image.is_file():
            raise MmcbError(f"{path}: behavior {one.id}: there is no picture {image}")
        subjects.append(TextSubject(one, image, one.target + target_suffix))
    return subjects


def batches(subjects: Sequence[TextSubject], *, batch_size: int) -> list[list[TextSubject]]:
    """Batches in a fixed order, which resuming depends on; requests of like length together."""
    ordered = sorted(
        subjects,
        key=lambda one: (one.image is not None, len(one.behavior.prompt + one.target)),
    )
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def log_losses(attempts_path: Path) -> None:
    """Log, per model, the mean losses, and how often greedy decoding writes the target."""
    attempts = list(read_records(attempts_path, Attempt))
    for label in ("base", "defended"):
        own = [one.measures for one in attempts if one.model == label]
        if own:
            _log.info(
                "%s: %d attempts, loss %.3f -> %.3f, target reached by %.0f %%",
                label,
                len(own),
                fmean(one.get("loss_start", math.nan) for one in own),
                fmean(one.get("loss_float", math.nan) for one in own),
                100 * fmean(one.get("target_reached", 0.0) for one in own),
            )
    _log.info("wrote %s", attempts_path)
