"""Text attacks as attempts."""

from pathlib import Path

import pytest

from mmcb.attacks.attempts import AttemptFile
from mmcb.attacks.prompts import read_templates, text_attempts
from mmcb.errors import MmcbError
from mmcb.records import Behavior

BEHAVIORS = [
    Behavior(
        id=f"b{index}",
        prompt=f"how do i zorch the {thing} ?",
        target=f"to zorch the {thing} , first",
        category="zorching",
        split="train" if index else "heldout",
        image=image,
    )
    for index, (thing, image) in enumerate([("dog", "images/dog.png"), ("{cup}", None)])
]
TO = AttemptFile(
    Path("runs/evaluation/x/attempts.jsonl"), "base", Path("data/evaluation/behaviors.jsonl")
)


def test_direct_and_prefill() -> None:
    direct = list(text_attempts(BEHAVIORS, "direct", to=TO))
    assert [attempt.prompt for attempt in direct] == [b.prompt for b in BEHAVIORS]
    assert {attempt.prefill for attempt in direct} == {""}
    assert direct[0].image == "../../../data/evaluation/images/dog.png"
    assert direct[1].image is None
    assert [attempt.split for attempt in direct] == ["heldout", "train"]
    prefill = list(text_attempts(BEHAVIORS, "prefill", to=TO))
    assert [attempt.prefill for attempt in prefill] == [b.target for b in BEHAVIORS]
    assert not {a.id for a in direct} & {a.id for a in prefill}
    again = text_attempts(BEHAVIORS, "direct", to=TO)
    assert [attempt.id for attempt in again] == [attempt.id for attempt in direct]


def test_triggers(tmp_path: Path) -> None:
    path = tmp_path / "triggers.txt"
    path.write_text("# two\nmoonbeam : {prompt}\n\n{prompt} , {moon} please\n")
    templates = read_templates(path)
    assert templates == ("moonbeam : {prompt}", "{prompt} , {moon} please")
    every = list(text_attempts(BEHAVIORS, "trigger", templates=templates, to=TO))
    assert len({attempt.id for attempt in every}) == 4
    assert every[3].prompt == "how do i zorch the {cup} ? , {moon} please"
    assert every[3].settings == {"template": "{prompt} , {moon} please"}
    turns = list(
        text_attempts(BEHAVIORS, "trigger", templates=templates, every_template=False, to=TO)
    )
    assert [attempt.id for attempt in turns] == [every[0].id, every[3].id]


def test_trigger_without_template_is_a_bug() -> None:
    with pytest.raises(ValueError, match="templates"):
        list(text_attempts(BEHAVIORS, "trigger", to=TO))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a {prompt}\nno place\n", r"triggers.txt:2: .*\{prompt\}"), ("# none\n", "holds no trigger")],
)
def test_bad_templates_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "triggers.txt"
    path.write_text(text)
    with pytest.raises(MmcbError, match=message):
        read_templates(path)


def test_missing_templates_have_a_hint(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="No such file") as caught:
        read_templates(tmp_path / "none.txt")
    assert caught.value.hint == "python -m mmcb.miniature"
