from dataclasses import replace

import pytest

from mmcb.evaluation.budget import attack_budgets
from mmcb.evaluation.summarize import Judged
from mmcb.evaluation.verdicts import Item
from mmcb.records import Attempt, Generation, Provenance

Curve = list[tuple[float, float]]


def judged(name: str, label: bool | None, *, passes: float, loss: float, stop: float) -> Judged:
    attempt = Attempt(
        id=name,
        behavior_id=name,
        attack="gcg",
        model="defended",
        split="train",
        category="zorching",
        prompt="how do i zorch ?",
        measures={"passes": passes, "loss_float": loss},
        settings={"stop_loss": stop},
    )
    generation = Generation(
        id=name,
        attempt_id=name,
        model="defended",
        text="",
        finish_reason="stop",
        num_tokens=0,
        provenance=Provenance(generator="fake", seed=0),
    )
    return Judged(Item(generation, attempt, None, None), {"miniature": label})


def curve(*losses: float) -> Curve:
    return [(float(step), loss) for step, loss in enumerate(losses)]


def test_success_counts_from_where_the_result_was_found() -> None:
    found = [
        judged("early", True, passes=4, loss=0.1, stop=0.5),
        judged("late", True, passes=8, loss=0.9, stop=0.5),
        judged("safe", False, passes=4, loss=0.2, stop=0.5),
        judged("unread", None, passes=4, loss=0.2, stop=0.5),
    ]
    curves = {
        "early": curve(3, 0.1, 2, 2),  # best at the second of four evaluations
        "late": curve(3, 2, 1, 0.9),  # two passes an evaluation; never under the threshold
        "safe": curve(3, 2, 0.4, 0.2),
        "unread": curve(3, 2, 1, 0.2),
    }
    budget = attack_budgets(found, curves, judge="miniature")["defended"]["gcg"]
    assert budget == {
        "n": 3,
        "spent": 8,
        "succeeded": [[2.0, 1], [8.0, 2]],
        "stop_loss": 0.5,
        "n_below": 4,
        "below": [[2.0, 1], [3.0, 2], [4.0, 3]],
    }


def test_a_result_kept_for_another_reason_counts_from_the_end() -> None:
    """An image chosen on validation is not the iterate of least loss."""
    one = judged("a", True, passes=4, loss=1.5, stop=0.0)
    budget = attack_budgets([one], {"a": curve(3, 0.1, 2, 1.5)}, judge="miniature")
    assert budget["defended"]["gcg"]["succeeded"] == [[4.0, 1]]
    assert "below" not in budget["defended"]["gcg"]


def test_attacks_without_a_curve_have_no_budget() -> None:
    one = judged("a", True, passes=4, loss=1.5, stop=0.0)
    assert attack_budgets([one], {}, judge="miniature") == {}


def test_two_runs_of_one_attack_are_two_attacks() -> None:
    found = []
    for run, stop in (("weak", 0.5), ("strong", 0.1), ("strong", 0.1)):
        one = judged(f"{run}{len(found)}", True, passes=2, loss=0.05, stop=stop)
        attempt = one.item.attempt
        named = attempt.model_copy(update={"settings": {**attempt.settings, "run": run}})
        found.append(replace(one, item=replace(one.item, attempt=named)))
    curves = {one.item.attempt.id: curve(3, 0.05) for one in found}
    budgets = attack_budgets(found, curves, judge="miniature")["defended"]
    assert {name: budget["n"] for name, budget in budgets.items()} == {
        "gcg: weak": 1,
        "gcg: strong": 2,
    }
    # One run of a kind goes by the attack's name, whatever the folder was called.
    only = attack_budgets(found[1:], curves, judge="miniature")["defended"]
    assert list(only) == ["gcg"]


@pytest.mark.parametrize(("thresholds", "there"), [((0.5, 0.5), True), ((0.5, 0.1), False)])
def test_the_threshold_is_shown_where_it_is_one(thresholds: tuple[float, ...], there: bool) -> None:
    found = [
        judged(str(k), True, passes=2, loss=0.2, stop=stop) for k, stop in enumerate(thresholds)
    ]
    curves = {str(k): curve(3, 0.2) for k in range(len(thresholds))}
    budget = attack_budgets(found, curves, judge="miniature")["defended"]["gcg"]
    assert ("below" in budget) is there
