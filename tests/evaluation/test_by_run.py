"""Rates of each run: what belongs to it, by split and model, and transfers apart."""

from pathlib import Path

import pytest

from mmcb.evaluation.by_run import rates_by_run
from mmcb.evaluation.summarize import Judged
from mmcb.evaluation.verdicts import Item
from mmcb.evaluation.words import case_name
from mmcb.records import AttackName, Attempt, Generation, Provenance, Scalar, Split


def one(
    behavior: str,
    label: bool | None,
    *,
    attack: AttackName = "image_hijack",
    model: str = "base",
    split: Split = "train",
    passes: float | None = None,
    **settings: Scalar,
) -> Judged:
    attempt = Attempt(
        id=f"{behavior}-{attack}-{model}-{settings}",
        behavior_id=behavior,
        attack=attack,
        model=model,
        split=split,
        category="zorching",
        prompt="how do i zorch it ?",
        measures={} if passes is None else {"passes": passes},
        settings=settings,
    )
    generation = Generation(
        id=f"g-{attempt.id}",
        attempt_id=attempt.id,
        model=model,
        text="",
        finish_reason="stop",
        num_tokens=1,
        provenance=Provenance(generator="test"),
    )
    return Judged(Item(generation, attempt, None, None), {"exact": label})


def test_test_cases_are_called_after_their_method() -> None:
    folder = Path("results/PAIR")
    assert case_name(folder / "default/test_cases/test_cases.json") == "PAIR"
    assert case_name(folder / "subset/test_cases/test_cases.json") == "PAIR/subset"
    assert case_name(Path("mine/pair.json")) == "pair"


def test_runs_of_one_attack_are_told_apart() -> None:
    table = rates_by_run(
        [
            one("a", True, run="plain", passes=10),
            one("b", False, run="plain", passes=20),
            one("a", True, run="plain", split="heldout"),
            one("a", False, run="strong", model="defended"),
            one("a", True, run="strong", model="defended", transferred_from="base"),
            one("a", None, attack="direct"),
            one("a", True, attack="static", cases="PAIR"),
            one("a", True, attack="static", cases="AutoDAN"),
            one("x", True, attack="task"),
        ],
        judge="exact",
    )
    assert list(table) == ["plain", "strong", "direct", "PAIR", "AutoDAN"]
    plain = table["plain"]
    assert plain["attack"] == "image_hijack"
    assert (plain["train"]["base"]["value"], plain["train"]["base"]["n"]) == (0.5, 2)
    assert plain["train"]["base"]["passes"] == pytest.approx(15)
    assert plain["heldout"]["base"]["n"] == 1
    assert "passes" not in plain["heldout"]["base"]
    strong = table["strong"]["train"]
    assert strong["defended"]["value"] == 0.0
    assert strong["transfer"]["value"] == 1.0
    # A verdict that cannot be read is in no rate.
    assert table["direct"]["train"]["base"]["n"] == 0


def test_several_attempts_on_a_behavior_count_once_where_any_will_do() -> None:
    judged = [
        one("a", False, attack="translated", language="x"),
        one("a", True, attack="translated", language="y"),
        one("b", False, attack="translated", language="x"),
        one("c", None, attack="translated", language="x"),
    ]
    cell = rates_by_run(judged, judge="exact")["translated"]["train"]["base"]
    assert (cell["value"], cell["n"]) == (0.25, 2)
    assert (cell["any"]["value"], cell["any"]["n"]) == (0.5, 2)
