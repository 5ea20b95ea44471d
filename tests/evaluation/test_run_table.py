"""The report's table of attacks one by one."""

from typing import Any

from mmcb.evaluation.metrics import rate
from mmcb.evaluation.report.runs import run_table


def cell(successes: int, n: int, **more: float) -> dict[str, Any]:
    return {**rate(i < successes for i in range(n)).as_dict(), **more}


def one_run(**cells: dict[str, Any]) -> dict[str, Any]:
    return {"runs": {"a": {"attack": "gcg", "train": cells, "heldout": {}}}}


def test_the_strongest_attack_is_named_for_each_split() -> None:
    runs = {
        "weak": {
            "attack": "gcg",
            "train": {"base": cell(4, 4), "defended": cell(0, 4)},
            "heldout": {},
        },
        "strong": {
            "attack": "image_hijack",
            "train": {"base": cell(4, 4, passes=7), "defended": cell(1, 4, passes=100)},
            "heldout": {"defended": cell(2, 2), "transfer": cell(0, 2, passes=7)},
        },
    }
    made = {"image_hijack: strong": {"defended": {"epsilon": 32 / 255, "steps": 100}}}
    table = run_table("one", {"runs": runs, "settings": {"attack": {"settings": made}}})
    assert [row.name for row in table.rows] == ["weak", "strong"]
    assert table.strongest.startswith(
        "What succeeds most on the defended model: on trained categories strong with 25"
    )
    assert "held-out categories strong with 100" in table.strongest
    weak, strong = table.rows
    assert (weak.counts, weak.passes) == ("4", "-")
    assert (weak.kind, strong.kind) == (
        "token search (GCG)",
        "image hijack, within 32/255, 100 steps",
    )
    assert (strong.counts, strong.passes) == ("4 / 2", "7 / 100")
    assert [bool(one) for one in strong.cells] == [True, True, False, False, True, True]


def test_without_a_defended_model_nothing_is_strongest() -> None:
    table = run_table("one", one_run(base=cell(1, 1)))
    assert table.strongest == ""
    assert run_table("one", {}).rows == ()


def test_where_no_attack_succeeds_none_is_strongest() -> None:
    table = run_table("one", one_run(defended=cell(0, 4)))
    assert (
        table.strongest == "What succeeds most on the defended model: on trained categories none."
    )
