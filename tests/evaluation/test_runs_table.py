"""The Markdown table of attacks one by one."""

from mmcb.evaluation.runs_table import runs_markdown


def test_a_behavior_with_several_attempts_counts_by_its_share() -> None:
    cell = {"low": 0.0, "high": 0.5, "n": 4}
    train = {"base": {**cell, "value": 0.5}, "defended": {**cell, "value": 0.125}}
    runs = {"a": {"train": train, "heldout": {"base": {**cell, "value": None}}}}
    row = runs_markdown({"models": {"base": {}, "defended": {}}, "runs": runs}).splitlines()[2]
    assert row == "| a | 2 of 4 (0.00 to 0.50) | 0.5 of 4 (0.00 to 0.50) | - | - | - |"
