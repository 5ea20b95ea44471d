"""Cutting a step into micro-batches, against all other ways to cut it."""

import random
from collections.abc import Iterator

import pytest

from mmcb.training.microbatches import cut


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
