"""Cutting a step into micro-batches, against all other ways to cut it."""

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from mmcb.training.microbatches import cut, deal


def padded(lengths: list[int], groups: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in group) * len(group) for group in groups)


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for index, group in enumerate(rest):
            yield [*rest[:index], [items[0], *group], *rest[index + 1 :]]


@pytest.mark.parametrize("seed", range(5))
def test_no_other_cut_is_cheaper(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.choice([3, 20, 60, 200, 500]) + rng.randrange(9) for _ in range(7)]
    groups = cut(lengths, overhead=50)
    assert sorted(index for group in groups for index in group) == list(range(7))
    least = min(padded(lengths, p) + 50 * len(p) for p in partitions(list(range(7))))
    assert padded(lengths, groups) + 50 * len(groups) == least


def test_the_budget_holds_and_one_long_row_stands_alone() -> None:
    lengths = [900, 90, 100, 100, 80, 300]
    groups = cut(lengths, max_tokens=310, overhead=1000)
    assert groups[0] == [0]
    assert all(padded(lengths, [group]) <= 310 for group in groups[1:])


def test_equal_rows_stay_together_and_no_rows_are_no_groups() -> None:
    assert cut([64] * 32) == [list(range(32))]
    assert cut([]) == []


def rounds(lengths: list[int], shares: list[list[list[int]]]) -> list[list[int]]:
    """Padded tokens of the passes that run side by side, round by round."""
    sizes = [[padded(lengths, [g]) if g else 0 for g in groups] for groups in shares]
    return [list(of_round) for of_round in zip(*sizes, strict=True)]


@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize("max_tokens", [None, 250, 900])
def test_every_row_is_dealt_once_and_every_process_has_as_many_passes(
    processes: int, max_tokens: int | None
) -> None:
    rng = random.Random(processes)
    for rows in (1, 2, 7, 32):
        lengths = [rng.choice([20, 60, 200, 500]) + rng.randrange(9) for _ in range(rows)]
        shares = deal(lengths, processes=processes, max_tokens=max_tokens)
        assert len(shares) == processes
        assert sorted(i for groups in shares for g in groups for i in g) == list(range(rows))
        assert len({len(groups) for groups in shares}) == 1
        for group in (g for groups in shares for g in groups if len(g) > 1):
            assert max_tokens is None or padded(lengths, [group]) <= max_tokens


def test_like_rows_are_dealt_evenly_and_long_passes_run_side_by_side() -> None:
    assert deal([64] * 32, processes=8) == [
        [list(range(start, start + 4))] for start in range(0, 32, 4)
    ]
    rng = random.Random(0)
    lengths = [rng.randrange(100, 1000) for _ in range(64)]
    shares = deal(lengths, processes=4)
    loads = [sum(padded(lengths, [g]) for g in groups) for groups in shares]
    assert max(loads) < 1.1 * sum(loads) / 4
    assert sum(loads) < 1.2 * sum(lengths)
    sizes = rounds(lengths, shares)
    assert all(min(earlier) >= max(later) for earlier, later in pairwise(sizes))


def test_one_process_gets_the_cheapest_cut() -> None:
    lengths = [900, 90, 100, 100, 80, 300]
    assert deal(lengths, processes=1, max_tokens=310) == [cut(lengths, max_tokens=310)]
