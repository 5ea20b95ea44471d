import json

import pytest

from mmcb.evaluation.comparison import columns_of
from mmcb.evaluation.report.paper import FILE, paper_family, paper_tables
from mmcb.evaluation.summarize import ASR_KEYS
from mmcb.models.families import FAMILIES
from tests.evaluation.made_up_results import evaluation, make_results

LLAVA = "llava-hf/llava-v1.6-mistral-7b-hf"
ASR = {
    "base": {"direct": (6, 10), "image_hijack": (9, 10), "image_hijack_heldout": (5, 10)},
    "defended": {"direct": (0, 10), "image_hijack": (1, 10), "image_hijack_heldout": (2, 10)},
}


def test_the_data_names_what_there_is() -> None:
    data = json.loads(FILE.read_text(encoding="utf-8"))
    assert set(data["families"]) == {"llava-next", "mistral", "llama-3"} <= FAMILIES.keys()
    for entry in data["families"].values():
        for table in entry["tables"]:
            assert table["where"]
            for row in table["rows"]:
                assert "attack" not in row or row["attack"] in ASR_KEYS
                assert {"name", "original", "rerouted"} <= row.keys()
                assert row["rerouted"] is not None


@pytest.mark.parametrize("family", ["mistral", "llama-3"])
def test_the_averages_are_those_of_the_rows(family: str) -> None:
    """The copied rows are right as far as the paper's own averages can tell."""
    *rows, average = json.loads(FILE.read_text())["families"][family]["tables"][0]["rows"]
    assert average["name"] == "Average"
    for key in ("original", "rerouted"):
        mean = sum(row[key] for row in rows) / len(rows)
        assert mean == pytest.approx(average[key], abs=0.06)


def test_models_of_the_paper_by_any_name() -> None:
    assert paper_family("llava-next") == paper_family(LLAVA) == "llava-next"
    assert paper_family("GraySwanAI/Llama-3-8B-Instruct-RR") == "llama-3"
    assert paper_family("tiny-llava-next") is None
    assert paper_tables(columns_of([evaluation("a", make_results(ASR))])) == []


def test_our_numbers_lie_beside_the_papers() -> None:
    columns = columns_of([evaluation("a", make_results(ASR, model=LLAVA))])
    (tables,) = paper_tables(columns)
    compliance, by_category, capability = tables.tables
    direct, pgd = compliance.rows
    assert (direct.name, direct.original, direct.rerouted) == ("No attack", 77.4, 2.3)
    assert [cell.rate["value"] for cell in direct.ours] == [0.6, 0.0]
    # All categories together, as the paper has them.
    assert [(cell.rate["value"], cell.rate["n"]) for cell in pgd.ours] == [(0.7, 20), (0.15, 20)]
    assert pgd.rerouted == 14.3
    assert not by_category.columns
    assert not capability.columns


def test_capability_runs_stand_in_the_papers_capability_rows() -> None:
    results = make_results(ASR, model="mistral")
    share = {"value": 0.6, "n": 100, "low": 0.5, "high": 0.69}
    grade = {"value": 7.5, "n": 80, "low": 7.1, "high": 7.9}
    results["capability_runs"] = {
        "mmlu": {"run": "a", "how": "acc, 5 shots", "scale": "share", "base": share},
        "mt-bench": {"run": "b", "how": "judge x", "scale": "number", "defended": grade},
    }
    (tables,) = paper_tables(columns_of([evaluation("a", results)]))
    rows = {row.name: row for row in tables.tables[1].rows}
    assert [cell.rate["value"] for cell in rows["MMLU"].ours] == [0.6, None]
    assert [cell.rate["value"] for cell in rows["MT-Bench"].ours] == [None, 7.5]
    assert (rows["MT-Bench"].scale, rows["MT-Bench"].how) == ("number", ("judge x",))
    assert (rows["GSM8k"].how, rows["GSM8k"].ours[0].rate["value"]) == ((), None)
    assert tables.tables[1].columns


def test_what_differs_is_said() -> None:
    settings = {"epsilon": 32 / 255, "steps": 100}
    results = make_results(
        ASR,
        model=LLAVA,
        attacks={"image_hijack": {"base": settings, "defended": settings | {"steps": 1000}}},
    )
    (tables,) = paper_tables(columns_of([evaluation("a", results)]))
    text = "\n".join(tables.warnings)
    assert "133 pairs" in text
    assert "ours is 10 behaviors" in text
    assert "the paper's is labels by hand; ours is the miniature judge" in text
    assert "Budget of the image hijack: the paper's is steps 1000; ours is steps 100." in text
    # The defended model's attack has the paper's budget: one sentence, not two.
    assert text.count("Budget") == 1


def test_a_judge_of_the_papers_is_no_difference() -> None:
    mistral = make_results(ASR, model="mistral", judges=("harmbench=some/model", "phrase"))
    (tables,) = paper_tables(columns_of([evaluation("a", mistral)]))
    assert not any(warning.startswith("Judge") for warning in tables.warnings)
