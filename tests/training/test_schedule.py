"""The schedule's end points, counted in optimiser steps."""

import pytest

from mmcb.training.schedule import Schedule, Weights

PAPER = Schedule(reroute_weight=10.0, retain_weight=10.0, horizon=300)


def test_paper_end_points() -> None:
    assert PAPER.at(0) == Weights(reroute=10.0, retain=0.0, escape=0.0)
    assert PAPER.at(150) == Weights(reroute=5.0, retain=5.0, escape=0.0)
    assert PAPER.at(300) == Weights(reroute=0.0, retain=10.0, escape=0.0)


def test_first_step_is_that_of_the_authors_code() -> None:
    first = PAPER.at(1)
    assert first.retain == pytest.approx(0.0333, abs=1e-4)
    assert first.reroute == pytest.approx(9.9667, abs=1e-4)


def test_beyond_the_horizon_the_weights_stay() -> None:
    assert PAPER.at(301) == PAPER.at(300)


def test_retain_warmup_delays_the_retain_weight_only() -> None:
    schedule = Schedule(
        reroute_weight=10.0, retain_weight=10.0, horizon=300, retain_warmup_steps=20
    )
    assert [schedule.at(step).retain for step in (0, 1, 20)] == [0.0, 0.0, 0.0]
    assert schedule.at(21).retain == PAPER.at(21).retain
    assert schedule.at(10).reroute == PAPER.at(10).reroute


def test_escape_falls_to_zero_and_stays_there() -> None:
    schedule = Schedule(
        reroute_weight=5.0, retain_weight=5.0, horizon=400, escape_weight=2.0, escape_steps=20
    )
    assert [schedule.at(step).escape for step in (0, 10, 20, 21)] == [2.0, 1.0, 0.0, 0.0]


def test_no_escape_steps_is_no_escape() -> None:
    schedule = Schedule(reroute_weight=5.0, retain_weight=5.0, horizon=400, escape_weight=2.0)
    assert schedule.at(0).escape == schedule.at(1).escape == 0.0
