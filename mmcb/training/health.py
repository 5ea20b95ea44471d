"""When a run has gone wrong, and is not to end with an adapter that looks like any other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from mmcb.errors import MmcbError
from mmcb.log import get_logger

WINDOW = 10
"""Rows are judged by their mean over so many steps: single batches are noisy, and where batches
with and without images alternate, neighbours differ."""

STUCK_COSINE = 0.9
"""Above this cosine rerouting has not begun: training sits on its saddle. The authors' own log is
below 0.3 by step 30; healthy runs of the shipped models end below 0.6."""

LONG_ENOUGH = 50
"""Optimiser steps that a run must have to be failed for its cosine. The authors' run leaves the
saddle between steps 13 and 40; of a shorter one, a trial, nothing can be asked."""

LOST_SHARE = 1.0
"""Retain loss over the norm of the frozen states, above which nothing is retained: the adapted
state is as far from the frozen one as the origin is. Healthy runs of the shipped models come near
it early (0.9, while the escape loss acts) and end below 0.1: it is asked in the second half."""

RUNAWAY_SHARE = 10.0
"""The same at any step: ten times as far as the origin, ten times what a healthy run reaches at its
worst. Weights that got there do not come back."""

_log = get_logger(__name__)


class Health:
    """Watches the rows of a run; remembers the last few."""

    def __init__(self, *, steps: int) -> None:
        """Watch a run of so many optimiser steps."""
        self._steps = steps
        self._cosines: deque[float] = deque(maxlen=WINDOW)
        self._shares: deque[float] = deque(maxlen=WINDOW)

    def check(self, step: int, row: Mapping[str, float]) -> None:
        """Look at the row of a step, before it is made permanent by a checkpoint.

        Args:
            step: optimiser step.
            row: its `reroute_cosine`, `retain_loss` and `frozen_norm`.

        Raises:
            MmcbError: the retain loss has run away, or the cosine has not fallen by the end.
        """
        self._cosines.append(row["reroute_cosine"])
        if row["frozen_norm"] > 0:
            self._shares.append(row["retain_loss"] / row["frozen_norm"])
        self._check_retain(step)
        self._check_cosine(step)

    def _check_retain(self, step: int) -> None:
        # At the end of a run that was resumed a moment ago, fewer rows must do.
        if not self._shares or (len(self._shares) < WINDOW and step < self._steps):
            return
        share = sum(self._shares) / len(self._shares)
        if share > (LOST_SHARE if 2 * step > self._steps else RUNAWAY_SHARE):
            raise MmcbError(
                f"step {step}: the retain loss diverges: over the last {len(self._shares)} steps"
                f" it is {share:.1f} times the norm of the hidden states, so nothing is retained",
                hint="lower --learning-rate, or raise --retain-weight; no adapter was saved",
            )

    def _check_cosine(self, step: int) -> None:
        cosine = sum(self._cosines) / len(self._cosines)
        if step not in (self._steps // 2, self._steps) or cosine <= STUCK_COSINE:
            return
        told = f"step {step}: the cosine is still {cosine:.4f}: rerouting has not left its saddle"
        advice = "try a higher --learning-rate, --escape-weight or --escape-steps"
        if step == self._steps >= LONG_ENOUGH:
            raise MmcbError(told, hint=f"{advice}; no adapter was saved")
        _log.warning("%s; %s", told, advice)


def check_finite(values: Mapping[str, float], *, step: int) -> None:
    """Make sure that every figure of a step is a number, before anything of it is kept.

    Raises:
        MmcbError: one is not.
    """
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise MmcbError(
            f"step {step}: {', '.join(wrong)} not finite; nothing of this step was kept",
            hint="lower --learning-rate, or use --dtype bfloat16 or float32 instead of float16",
        )
