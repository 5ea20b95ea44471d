"""Which behaviors make a universal picture, which choose it, which test it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from mmcb.attacks.image_hijack.config import ImageHijackConfig
from mmcb.errors import MmcbError
from mmcb.records import Behavior, Scalar
from mmcb.store import record_id

T = TypeVar("T")


class Pair(NamedTuple):
    """What is asked, and how the answer is to begin."""

    prompt: str
    target: str


@dataclass(frozen=True, slots=True)
class Roles:
    """Pairs to train on and to validate with, and the behaviors to test on: no behavior is in two.

    With a set of responses the first two are its lines, asked for without any request.
    """

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Behavior, ...]

    @property
    def id(self) -> str:
        """Names the split."""
        return record_id(repr(self.train), repr(self.validation))

    def summary(self) -> dict[str, Scalar]:
        """For an attempt's settings."""
        return {
            "role": "test",
            "roles": self.id,
            "num_train": len(self.train),
            "num_validation": len(self.validation),
            "num_test": len(self.test),
        }


def assign_roles(config: ImageHijackConfig, behaviors: Sequence[Behavior]) -> Roles:
    """Split by a hash of seed and id, so that a behavior's neighbours do not move it.

    Behaviors that differ only in their pictures are one: they are the same to one picture for all.

    Raises:
        MmcbError: too few behaviors for three parts, or no responses in the file.
    """
    distinct = {(one.prompt, one.target): one for one in reversed(behaviors)}.values()
    ordered = sorted(distinct, key=lambda behavior: record_id(config.seed, "role", behavior.id))
    test, rest = _cut(ordered, config.test_share)
    if config.target == "responses" and config.responses is not None:
        texts = [Pair("", line) for line in read_responses(config.responses)]
        texts.sort(key=lambda pair: record_id(config.seed, "role", pair.target))
        share = config.validation_share
        validation, train = _cut(texts, share)
    else:
        pairs = [Pair(one.prompt, one.target) for one in rest]
        if config.target == "responses":
            # Without the requests two behaviors may aim at the same.
            tested = {one.target for one in test}
            pairs = [Pair("", text) for text in dict.fromkeys(one.target for one in pairs)]
            pairs = [pair for pair in pairs if pair.target not in tested]
        validation, train = _cut(pairs, config.validation_share / max(1e-9, 1 - config.test_share))
    if not train or not validation or not test:
        raise MmcbError(
            f"{len(behaviors)} behaviors are too few to train, validate and test one picture",
            hint="give more behaviors, or other --validation-share and --test-share",
        )
    return Roles(tuple(train), tuple(validation), tuple(test))


def read_responses(path: Path) -> list[str]:
    """The different lines of a text file that are not empty.

    Raises:
        MmcbError: there is no such file, or it has fewer than two lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MmcbError(
            f"--responses {path}: {error.strerror}", hint="give a text file, one response a line"
        ) from error
    lines = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(lines) < 2:
        raise MmcbError(
            f"--responses {path} holds {len(lines)} responses",
            hint="at least one is needed to train on and one to validate with",
        )
    return lines


def _cut(items: Sequence[T], share: float) -> tuple[list[T], list[T]]:
    """The first `share` of the items, at least one, and the rest."""
    count = max(1, round(share * len(items)))
    return list(items[:count]), list(items[count:])
