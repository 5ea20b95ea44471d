import json
from pathlib import Path
from typing import Any

import pytest

from mmcb.errors import MmcbError
from mmcb.evaluation.comparison import columns_of, common_judges, load_evaluation
from mmcb.evaluation.differences import find_differences
from mmcb.evaluation.report.headline import headline
from mmcb.evaluation.rows import attack_rows
from tests.evaluation.made_up_results import evaluation, make_results, rate, save_results

BOTH = {
    "base": {"prefill": (10, 10), "direct": (0, 10)},
    "defended": {"prefill": (1, 10), "direct": (0, 10)},
}
HIJACK = {"epsilon": 32 / 255, "steps": 100, "step_size": 1 / 255, "torch": "2.13.0"}


def two(**changes: Any) -> list[Any]:
    other = make_results(BOTH | {"defended": {"prefill": (4, 10), "direct": (0, 10)}}, **changes)
    return [evaluation("a", make_results(BOTH)), evaluation("b", other)]


def test_a_shared_base_stands_there_once() -> None:
    columns = columns_of(two())
    assert [column.label for column in columns] == ["base", "a", "b"]
    assert [column.tone for column in columns] == ["m1", "m2", "m3"]
    assert headline(columns) == (
        "The prefill succeeds on 100\u00a0% (base), 10\u00a0% (a) and 40\u00a0% (b) of behaviors."
    )


def test_the_headline_names_the_attack_that_breaks_the_defence() -> None:
    def run(defended: float, heldout: float) -> dict[str, Any]:
        def cells(value: float) -> dict[str, Any]:
            return {"base": {"value": 1.0, "n": 8}, "defended": {"value": value, "n": 8}}

        return {"attack": "image_hijack", "train": cells(defended), "heldout": cells(heldout)}

    weak = {"prefill": run(0.0, 0.0), "short": run(0.0, 0.0)}
    columns = columns_of([evaluation("a", make_results(BOTH) | {"runs": weak})])
    assert headline(columns).startswith("The prefill succeeds on 100\u00a0% of behaviors before")
    strong = weak | {"whole-answer": run(0.0, 0.5)}
    columns = columns_of([evaluation("a", make_results(BOTH) | {"runs": strong})])
    assert headline(columns).startswith(
        "The strongest of 3 attacks, whole-answer, succeeds on 100\u00a0% of harms never trained "
        "on before rerouting and on 50\u00a0% after it"
    )


def test_a_base_measured_otherwise_does_not_merge() -> None:
    labels = [column.label for column in columns_of(two(max_new_tokens=512))]
    assert labels == ["a, base", "a", "b, base", "b"]


def test_numbers_by_different_judges_are_refused() -> None:
    with pytest.raises(MmcbError, match="do not compare") as caught:
        columns_of(two(judges=("phrase",)))
    assert "--judges miniature phrase" in str(caught.value.hint)
    assert common_judges(two(judges=("miniature",))) == ["miniature"]


def test_what_differs_is_named() -> None:
    attacks = {"image_hijack": {"defended": HIJACK}}
    weaker = {"image_hijack": {"defended": HIJACK | {"steps": 10, "torch": "2.0.0"}}}
    first = evaluation("a", make_results(BOTH, attacks=attacks))
    other = make_results(BOTH, attacks=weaker, max_new_tokens=512, batch_size=1)
    other["settings"]["sets"]["behaviors"]["hash"] = "f" * 16
    found = find_differences([first, evaluation("b", other)])
    named = {difference.name: (difference.weight, difference.values) for difference in found}
    assert named == {
        "set of behaviors": ("measuring", ("10 (00000000)", "10 (ffffffff)")),
        "max new tokens": ("measuring", ("96", "512")),
        "image hijack on defended: steps": ("attack", ("100", "10")),
        "image hijack on defended: torch": ("software", ("2.13.0", "2.0.0")),
    }
    assert [d.weight for d in found] == ["measuring", "measuring", "attack", "software"]


def test_an_attack_that_one_was_not_put_to_is_no_difference() -> None:
    attacks = {"image_hijack": {"defended": HIJACK}}
    results = [make_results(BOTH, attacks=attacks), make_results(BOTH)]
    assert find_differences([evaluation("a", results[0]), evaluation("b", results[1])]) == []


def test_results_of_older_versions_have_gaps() -> None:
    old = make_results(BOTH)
    for numbers in (*old["judges"].values(), *old["coherence"].values()):
        for role in numbers.values():
            del role["gcg"]
    del old["any_of_n"], old["settings"]["sets"]
    (column, *_) = columns_of([evaluation("old", old)])
    assert column.asr("miniature", "gcg")["n"] == 0
    assert column.any_of_n("prefill")["value"] is None


def test_rows_say_what_any_of_several_attempts_reached() -> None:
    results = make_results(BOTH)
    results["any_of_n"]["base"]["prefill"] = {"attempts": 5, **rate(3, 3)}
    columns = columns_of([evaluation("a", results)])
    rows = {row.name: row for row in attack_rows(columns, ["miniature", "phrase"])}
    assert list(rows) == ["direct request", "prefill", "prefill, any of 5"]
    assert rows["prefill, any of 5"].sizes == [3]
    assert [name for name, _ in rows["prefill"].cells[0].beside] == ["phrase", "coherent"]


def test_load_evaluation(tmp_path: Path) -> None:
    folder = save_results(tmp_path / "mine", make_results(BOTH))
    assert load_evaluation(folder).name == "mine"
    assert load_evaluation(folder / "results.json").folder == folder
    with pytest.raises(MmcbError, match="no finished evaluation"):
        load_evaluation(tmp_path)
    (folder / "results.json").write_text(json.dumps({"agreement": 1}))
    with pytest.raises(MmcbError, match="not an evaluation's results"):
        load_evaluation(folder)
