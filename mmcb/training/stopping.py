"""When there is nothing left to gain: `--stop-early`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WINDOW = 20
"""Steps of a mean. Even: where batches with and without images take turns, both are in it alike. In
ten, the noise of batches passes for an end (docs/lab-log.md)."""

COLLAPSED = 0.5
"""The mean cosine must be below this: `start.LEFT`, where a run counts as off the saddle."""

FROM_PEAK = 0.2
"""The mean retain loss must be at most this share of its highest: it rises while the cosine falls,
and turning round at the top it stands still too."""

SETTLED = 0.1
"""Share by which the mean retain loss may differ from that of the window before."""


class Stopper:
    """Watches the rows of a run; remembers two windows, and the highest mean."""

    def __init__(self, *, enabled: bool, history: Iterable[Mapping[str, Any]] = ()) -> None:
        """Begin a run, or go on with one.

        Args:
            enabled: whether a run may stop early at all.
            history: rows of metrics of the steps already done.
        """
        self._enabled = enabled
        self._cosines: deque[float] = deque(maxlen=WINDOW)
        self._retain: deque[float] = deque(maxlen=2 * WINDOW)
        self._peak = 0.0
        for row in history:
            self.saw(row)

    def saw(self, row: Mapping[str, Any]) -> None:
        """Take note of a step's `reroute_cosine` and `retain_loss`."""
        self._cosines.append(row["reroute_cosine"])
        self._retain.append(row["retain_loss"])
        if len(self._cosines) == WINDOW:
            self._peak = max(self._peak, _mean(list(self._retain)[-WINDOW:]))

    @property
    def done(self) -> bool:
        """Whether the cosine has collapsed and the retain loss has settled, over the last steps."""
        if not self._enabled or len(self._retain) < 2 * WINDOW:
            return False
        before, now = (_mean(list(self._retain)[half]) for half in _HALVES)
        return (
            _mean(self._cosines) < COLLAPSED
            and now <= FROM_PEAK * self._peak
            and abs(now - before) <= SETTLED * before
        )


_HALVES = (slice(WINDOW), slice(WINDOW, None))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
