"""Means and ratios of scores with a bootstrap interval, drawn over questions.

For grades, which are no shares of yes and no (those have Wilson's interval in metrics.py). Whole
questions are drawn: two turns of one question are no independent measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

DRAWS = 10_000
_AT_ONCE = 1_000_000
"""Numbers drawn at once, so that memory stays small for any number of questions."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number over n questions with its 95 % percentile interval.

    `value` is None when n is 0, and the interval then, too.
    """

    value: float | None
    n: int
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """As it stands in results.json: value, n, low, high."""
        return asdict(self)


def ratio_of_sums(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int
) -> Estimate:
    """The sum of the first by the sum of the second, a pair for each question.

    A mean over all scores is the ratio of each question's sum and count; a relative score that of
    two sums of scores. Source of the interval: Efron 1979 (percentile bootstrap).

    Args:
        numerators: one number for each question.
        denominators: likewise, above 0.
        seed: seed of the draws.
    """
    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    n = len(above)
    if n == 0:
        return Estimate(None, 0, None, None)
    generator = np.random.default_rng(seed)
    ratios: list[np.ndarray] = []
    left = DRAWS
    while left > 0:
        draws = min(left, max(1, _AT_ONCE // n))
        rows = generator.integers(n, size=(draws, n))
        ratios.append(above[rows].sum(axis=1) / below[rows].sum(axis=1))
        left -= draws
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return Estimate(float(above.sum() / below.sum()), n, float(low), float(high))
