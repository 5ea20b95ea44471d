"""How far two raters agree: raw agreement and Cohen's kappa."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two raters' labels of the same n things.

    Attributes:
        n: things that both labelled.
        left_out: things that one of them could not label, or was not asked about.
        agreement: share of n with the same label; None when n is 0.
        kappa: agreement beyond chance, 1 at best and 0 for chance; None where chance alone gives
            full agreement (each rater has one label throughout), or n is 0.
        only_first: things that only the first rater says yes to.
        only_second: things that only the second one does.
    """

    n: int
    left_out: int
    agreement: float | None
    kappa: float | None
    only_first: int
    only_second: int

    def as_dict(self) -> dict[str, Any]:
        """As it stands in results.json."""
        return asdict(self)


def agree(pairs: Iterable[tuple[bool | None, bool | None]]) -> Agreement:
    """Agreement of two raters over pairs of labels; None is no label.

    Source: J. Cohen, "A coefficient of agreement for nominal scales", Educational and
    Psychological Measurement 20 (1960).
    """
    everything = list(pairs)
    known = [(a, b) for a, b in everything if a is not None and b is not None]
    n = len(known)
    only_first = sum(a and not b for a, b in known)
    only_second = sum(b and not a for a, b in known)
    same = n - only_first - only_second
    # In whole numbers, so that "by chance alone" is exact: n * n times the chance to agree.
    first, second = sum(a for a, _ in known), sum(b for _, b in known)
    chance = first * second + (n - first) * (n - second)
    kappa = None if chance == n * n else (same * n - chance) / (n * n - chance)
    share = same / n if n else None
    return Agreement(n, len(everything) - n, share, kappa, only_first, only_second)


def agree_table(
    labels: Sequence[Mapping[str, bool | None]], raters: Sequence[str]
) -> list[dict[str, Any]]:
    """Each pair of raters, in their order, with their agreement over things' labels by rater."""
    return [
        {
            "first": first,
            "second": second,
            **agree((one.get(first), one.get(second)) for one in labels).as_dict(),
        }
        for first, second in combinations(raters, 2)
    ]
