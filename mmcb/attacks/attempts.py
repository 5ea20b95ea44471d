"""The record of an attack on a behavior, the same whatever the attack changed. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmcb.records import AttackName, Attempt, Behavior, Message, Scalar
from mmcb.store import relative_image, resolve_image


class AttemptFile(NamedTuple):
    """Where the attempts on one model go, and where their behaviors come from."""

    path: Path
    """The file of attempts; the files they name become relative to it."""
    model: str
    """`base` or `defended`."""
    behaviors: Path
    """The file the behaviors were read from; their pictures are relative to it."""

    def picture(self, behavior: Behavior) -> Path | None:
        """The behavior's own picture, if it has one."""
        return None if behavior.image is None else resolve_image(self.behaviors, behavior.image)


def make_attempt(
    behavior: Behavior,
    attack: AttackName,
    *,
    id_: str,
    path: Path,
    model: str,
    settings: Mapping[str, Scalar],
    prompt: str | None = None,
    prefill: str = "",
    history: tuple[Message, ...] = (),
    image: Path | None = None,
    embeddings: Path | None = None,
    steering: Path | None = None,
    measures: Mapping[str, float] | None = None,
) -> Attempt:
    """One attack on one behavior.

    Args:
        behavior: what the model is to do.
        attack: the attack's name.
        id_: names all that tells this attempt from others.
        path: the file of attempts.
        model: `base` or `defended`.
        settings: what the attack depends on.
        prompt: the request; None: the behavior's own.
        prefill: the beginning of the answer.
        history: the conversation before the prompt.
        image: the picture to show.
        embeddings: the vectors to put behind the prompt.
        steering: the direction to take out.
        measures: what was measured; what is not a finite number is left out.
    """
    files = {"image": image, "embeddings": embeddings, "steering": steering}
    named = {name: relative_image(path, file) for name, file in files.items() if file is not None}
    return Attempt(
        id=id_,
        behavior_id=behavior.id,
        attack=attack,
        model=model,
        split=behavior.split,
        category=behavior.category,
        prompt=behavior.prompt if prompt is None else prompt,
        prefill=prefill,
        measures={name: x for name, x in (measures or {}).items() if math.isfinite(x)},
        settings=dict(settings),
        history=history,
        **named,
    )
