"""Off the saddle in a stated number of steps, whatever the learning rate: `--start-steps`.

At cosine 1 only the escape loss has a gradient, and AdamW moves each weight by about the learning
rate a step, however steep it is: at a low rate the adapter cannot have turned anything by then. So
the first steps go at a rate of their own, which is measured and not given: how far along the first
step's direction must the adapter go for the cosine to fall? Whatever falls behind its time all the
same, on a model that is shaped otherwise, goes faster from step to step.

No rate helps where the retain loss pulls back harder than the others push, as it soon does in a
short run, whose retain weight rises fast. It is a length, in units of the hidden states, and they
are angles: times the states' own length its weight compares with theirs. The start holds it there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmcb.errors import MmcbError
from mmcb.log import get_logger
from mmcb.training.recipes import Recipe

LEFT = 0.5
"""The start is over once the mean cosine of a step's examples is below this."""

PROBE_COSINE = 0.7
"""`start_steps` equal steps along the first one's direction would bring the cosine here. Steps that
take aim anew, and move LoRA's A as well, mostly go further (docs/lab-log.md)."""

CATCH_UP = 1.5
"""Factor on the rate after a step whose cosine is behind its time."""

MOST_PULL = 0.5
"""Retain weight times the states' length, at most this share of the weights that push: with 1,
random models leave at the last moment."""

TO_SPARE = 3
"""Steps that the plan keeps in hand, and that pass before it is held against the cosine: the first
has moved nothing yet."""

SMALLEST, LARGEST = 1e-6, 10.0
"""Change of a weight between which the probe looks."""

COARSE, FINE = 4.0, 2.0**0.25
"""Factors between the changes that the probe tries: first up in coarse ones, then in between."""

_log = get_logger(__name__)


class Starter:
    """A step's learning rate and the limit of its retain weight: functions of probe and rows."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        probe: Callable[[], float],
        history: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Begin a run, or go on with one.

        Args:
            recipe: its `learning_rate` and `start_steps`.
            probe: measures how far a weight has to go along the first direction: `find_size`. Not
                asked where `history` tells.
            history: rows of metrics of the steps already done.
        """
        self._rate = recipe.learning_rate
        self._steps = recipe.start_steps
        self.starting = recipe.start_steps > 0
        """Whether the rate of the step to come hangs on the row of the one before."""
        self._taken = 0
        self._start_rate = 0.0
        self._balance = math.inf
        rows = list(history)
        if self.starting:
            measured = float(rows[0]["learning_rate"]) if rows else probe() / self._steps
            self._start_rate = max(self._rate, measured)
        for row in rows:
            self.saw(row)

    @property
    def learning_rate(self) -> float:
        """Of the step to come."""
        return self._start_rate if self.starting else self._rate

    @property
    def most_retain(self) -> float:
        """Largest retain weight of the step to come. None has a limit but those of the start."""
        return self._balance if self.starting else math.inf

    def saw(self, row: Mapping[str, Any]) -> None:
        """Take note of a step's `reroute_cosine`, `frozen_norm` and weights."""
        self._taken += 1
        if row["frozen_norm"] > 0:
            push = row["reroute_weight"] + row["escape_weight"]
            self._balance = MOST_PULL * push / row["frozen_norm"]
        if row["reroute_cosine"] < LEFT or self._taken >= self._steps:
            self.starting = False
        elif self._taken >= TO_SPARE and row["reroute_cosine"] > self._planned():
            self._start_rate *= CATCH_UP

    def _planned(self) -> float:
        """A parabola, as of the cosine of an angle that grows evenly, to `LEFT` with time left."""
        share = (self._taken - 1) / max(1, self._steps - TO_SPARE)
        return 1 - (1 - LEFT) * share**2


def find_size(cosine_at: Callable[[float], float]) -> float:
    """The change of a weight at which the cosine falls to `PROBE_COSINE`.

    Args:
        cosine_at: mean cosine of adapted and frozen states once every weight has gone so far along
            the first step's direction.

    Returns:
        The change, to a factor of `FINE`.

    Raises:
        MmcbError: no change between `SMALLEST` and `LARGEST` does it.
    """
    size = SMALLEST
    while cosine_at(size) > PROBE_COSINE:
        size *= COARSE
        if size > LARGEST:
            raise MmcbError(
                "the start found no way off the saddle: the first step's direction does not lower"
                " the cosine, however far the adapter goes along it",
                hint="leave --start-steps out, or check --target-layers and --lora-layers",
            )
    low, high = size / COARSE, size
    while high / low > FINE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cosine_at(middle) <= PROBE_COSINE else (middle, high)
    _log.info("start: the cosine falls to %.1f at a change of %.1e", PROBE_COSINE, high)
    return high
