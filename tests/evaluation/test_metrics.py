import math

import pytest

from mmcb.evaluation.metrics import Z_95, behavior_rate, rate, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in
        # Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("successes", range(11))
def test_bounds_are_where_the_score_test_rejects(successes: int) -> None:
    """The definition: |share - p| = z sqrt(p (1 - p) / n) at each bound p inside (0, 1)."""
    n = 10
    for bound in wilson_interval(successes, n):
        if 0 < bound < 1:
            distance = abs(successes / n - bound)
            assert distance == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) / n))


def test_nothing_measured_is_no_information() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert rate([]).as_dict() == {"value": None, "n": 0, "low": 0.0, "high": 1.0}


def test_impossible_counts_are_a_bug() -> None:
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)


def test_unknown_labels_leave_n() -> None:
    measured = rate([True, None, False, True, None])
    assert (measured.value, measured.n) == (2 / 3, 3)
    assert rate([None]).n == 0


def test_a_mean_score_has_the_interval_of_such_a_share() -> None:
    assert rate([1.0, 0.0, 0.0, 1.0]) == rate([True, False, False, True])
    graded = rate([0.5] * 4)
    assert (graded.value, graded.n) == (0.5, 4)
    assert (graded.low, graded.high) == wilson_interval(2, 4)


def test_attempts_on_one_behavior_are_no_more_data() -> None:
    """40 attempts on 2 behaviors know less than 40 on 40: n and interval count behaviors."""
    tries = [(name, label) for name, label in (("a", True), ("b", False)) for _ in range(20)]
    measured = behavior_rate(tries)
    assert (measured.value, measured.n) == (0.5, 2)
    assert (measured.low, measured.high) == wilson_interval(1, 2)
    # Each behavior counts once, however often it was tried; what cannot be read counts nowhere.
    uneven = behavior_rate([("a", True), ("b", True), ("b", False), ("b", None), ("c", None)])
    assert (uneven.value, uneven.n) == (0.75, 2)
    assert behavior_rate([("b", True), ("b", False)], of=any).value == 1.0
    assert behavior_rate((str(k), k < 3) for k in range(9)) == rate(k < 3 for k in range(9))
