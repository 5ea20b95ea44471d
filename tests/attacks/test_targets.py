"""What a user may have got wrong about behaviors and models is told before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcb.attacks.check.config import CheckConfig
from mmcb.attacks.targets import load_behaviors, locate_targets
from mmcb.errors import MmcbError
from mmcb.records import Behavior
from mmcb.store import replace_records


def behavior(id_: str, **changes: object) -> Behavior:
    values = {"prompt": "how do i zorch it ?", "target": "to zorch it", "category": "zorching"}
    return Behavior(id=id_, split="train", **{**values, **changes})  # type: ignore[arg-type]


def write(folder: Path, *behaviors: Behavior) -> Path:
    replace_records(folder / "behaviors.jsonl", behaviors)
    return folder / "behaviors.jsonl"


def test_the_first_that_can_be_attacked(tmp_path: Path) -> None:
    path = write(tmp_path, behavior("a"), behavior("b", image="b.png"), behavior("c"))
    assert [one.id for one in load_behaviors(path, limit=2)] == ["a", "b"]
    assert [one.id for one in load_behaviors(path, needs_image=True)] == ["b"]


def test_an_id_that_stands_twice_would_share_one_picture(tmp_path: Path) -> None:
    path = write(tmp_path, behavior("a", image="1.png"), behavior("a", image="2.png"))
    with pytest.raises(MmcbError, match=r"behaviors\.jsonl: id a stands twice"):
        load_behaviors(path)


def test_a_behavior_without_a_target_is_nothing_to_aim_at(tmp_path: Path) -> None:
    path = write(tmp_path, behavior("a"), behavior("b", target=" \n"))
    with pytest.raises(MmcbError, match=r"b has no target to aim at \(1 of 2") as one:
        load_behaviors(path)
    assert "`target`" in str(one.value.hint)
    assert len(load_behaviors(path, needs_target=False)) == 2
    assert len(load_behaviors(path, limit=1)) == 1


def test_none_is_told_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="holds no behavior with an image") as caught:
        load_behaviors(write(tmp_path, behavior("a")), needs_image=True)
    assert "--image-folder" in str(caught.value.hint)
    with pytest.raises(MmcbError, match="holds no behavior") as caught:
        load_behaviors(write(tmp_path))
    assert "--image-folder" not in str(caught.value.hint)


def test_a_hint_names_the_command_that_was_given(llm_folder: Path) -> None:
    with pytest.raises(MmcbError, match="takes no images") as caught:
        locate_targets(CheckConfig(model=str(llm_folder), adapter="none"))
    assert "mmcb.attacks.check --model" in str(caught.value.hint)
