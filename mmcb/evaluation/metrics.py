"""Rates with an interval.

Every number in a report is a share of n things, so there is one type for it and one
interval: Wilson's score interval, which stays inside [0, 1] and does not collapse to a point
at 0 of n or n of n, where most of our numbers live.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

Z_95 = 1.959963984540054
"""The 0.975 quantile of the standard normal distribution: a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of n things with its 95 % Wilson interval.

    `value` is None when n is 0: nothing was measured, and the interval is all of [0, 1].
    """

    value: float | None
    n: int
    low: float
    high: float

    def as_dict(self) -> dict[str, float | int | None]:
        """The rate as it stands in results.json: value, n, low, high."""
        return asdict(self)


def wilson_interval(successes: float, n: int, *, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval for `successes` of `n`, (0, 1) when n is 0.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22 (1927). Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula gives exactly 0 or 1 but for rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def rate(scores: Iterable[float | None]) -> Rate:
    """The mean of the scores in [0, 1] that are not None: of labels, the share of True.

    None means that a judge's answer could not be read, or that there was no answer to judge:
    such an item is left out of n, and whoever calls this counts it separately. A score in [0, 1]
    varies at most as much as a yes or no with the same mean, so its interval is at least as wide
    as it need be.
    """
    known = [score for score in scores if score is not None]
    total = math.fsum(known)
    low, high = wilson_interval(total, len(known))
    return Rate(value=total / len(known) if known else None, n=len(known), low=low, high=high)


def behavior_rate(
    scores: Iterable[tuple[str, float | None]],
    *,
    of: Callable[[Sequence[float]], float] = fmean,
) -> Rate:
    """The mean over behaviors of each one's mean score, as HarmBench counts attack success.

    Several attempts on one behavior are no independent measurements: n, and with it the interval,
    counts behaviors.

    Args:
        scores: (id of the behavior, label or score in [0, 1]); None as in `rate`.
        of: what a behavior's scores count as; `any` where one success is enough.
    """
    by_behavior: dict[str, list[float]] = {}
    for name, score in scores:
        if score is not None:
            by_behavior.setdefault(name, []).append(score)
    return rate(of(found) for found in by_behavior.values())
