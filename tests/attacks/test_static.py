"""Attempts from files: test cases, artifacts, translations, conversations, and samples of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcb.attacks.attempts import AttemptFile
from mmcb.attacks.static import (
    Case,
    case_attempts,
    multi_turn_attempts,
    read_cases,
    read_scripts,
    read_translations,
    repeated,
    translated_attempts,
)
from mmcb.errors import MmcbError
from mmcb.records import Behavior, Message

BEHAVIORS = [
    Behavior(
        id=f"b{i}",
        prompt=f"how do i zorch {{it}} {i} ?",
        target="to zorch it",
        category="zorching",
        split="train",
        image="pictures/1.png" if i else None,
    )
    for i in range(2)
]


def write(folder: Path, data: object) -> Path:
    path = folder / "file.json"
    path.write_text(json.dumps(data))
    return path


def to(folder: Path, model: str = "base") -> AttemptFile:
    return AttemptFile(folder / "out/a.jsonl", model, folder / "in/b.jsonl")


def test_harmbench_cases_become_attempts_with_the_behaviors_own_picture(tmp_path: Path) -> None:
    cases = read_cases(write(tmp_path, {"b0": ["one", "two"], "b1": ["three"], "b9": ["other"]}))
    made = list(case_attempts(BEHAVIORS, cases, name="x", to=to(tmp_path)))
    assert [(one.behavior_id, one.prompt) for one in made] == [
        ("b0", "one"),
        ("b0", "two"),
        ("b1", "three"),
    ]
    assert made[2].image == "../in/pictures/1.png"
    assert {one.attack for one in made} == {"static"}
    defended = list(case_attempts(BEHAVIORS, cases, name="x", to=to(tmp_path, "defended")))
    assert len({one.id for one in [*made, *defended]}) == 6


def test_a_case_brings_its_own_picture(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/hijack.png").write_bytes(b"a picture")
    cases = read_cases(write(tmp_path, {"b1": [["images/hijack.png", "one"], "two"]}))
    made = list(case_attempts(BEHAVIORS, cases, name="x", to=to(tmp_path)))
    assert [(one.prompt, one.image) for one in made] == [
        ("one", "../images/hijack.png"),
        ("two", "../in/pictures/1.png"),
    ]


def test_jailbreakbench_artifacts_are_known_by_name_or_number(tmp_path: Path) -> None:
    jailbreaks = [
        {"index": 0, "behavior": "b0", "goal": "g", "prompt": "zorch now"},
        {"index": 1, "behavior": "b1", "goal": "g", "prompt": None},
        {"index": 7, "goal": "g", "prompt": "by number"},
    ]
    data = {"parameters": {}, "jailbreaks": jailbreaks}
    # And by the id that mmcb's importer of JailbreakBench gives its behaviors.
    assert read_cases(write(tmp_path, data)) == {
        "b0": [Case("zorch now")],
        "jailbreakbench-0": [Case("zorch now")],
        "7": [Case("by number")],
        "jailbreakbench-7": [Case("by number")],
    }


def test_translations_and_conversations(tmp_path: Path) -> None:
    translations = read_translations(write(tmp_path, {"b0": {"qx": "wie zorch", "qy": "zorch ka"}}))
    made = list(translated_attempts(BEHAVIORS, translations, to=to(tmp_path)))
    assert [one.settings["language"] for one in made] == ["qx", "qy"]
    script = [
        {"role": "user", "content": "do you know the dog ?"},
        {"role": "assistant", "content": "yes {x} ."},
        {"role": "user", "content": "then {prompt}"},
    ]
    scripts = read_scripts(write(tmp_path, [script]))
    first = next(multi_turn_attempts(BEHAVIORS, scripts, to=to(tmp_path)))
    assert first.prompt == "then how do i zorch {it} 0 ?"
    assert first.history == (
        Message(role="user", content="do you know the dog ?"),
        Message(role="assistant", content="yes {x} ."),
    )


def test_samples_are_attempts_of_their_own(tmp_path: Path) -> None:
    cases = {"b0": [Case("one")]}
    made = list(case_attempts(BEHAVIORS, cases, name="x", to=to(tmp_path)))
    many = list(repeated(made, 3))
    assert len({one.id for one in many}) == 3
    assert many[0] == made[0]
    assert [one.settings.get("sample") for one in many] == [None, 1, 2]
    assert {one.prompt for one in many} == {"one"}


@pytest.mark.parametrize(
    ("read", "data", "words"),
    [
        (read_cases, ["one"], "neither HarmBench's"),
        (read_cases, {"b0": [["picture.png", "text"]]}, "b0: there is no picture picture.png"),
        (read_cases, {"b0": [["a.png", "text", "more"]]}, "neither HarmBench's"),
        (read_cases, {"jailbreaks": [{"goal": "g"}]}, "jailbreak 0 .* has no prompt"),
        (read_translations, {"b0": "text"}, "at b0"),
        (read_scripts, [[{"role": "user", "content": "no place"}]], "conversation 1 has no"),
        (read_scripts, [[{"role": "assistant", "content": "{prompt}"}]], "end with the user"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    tmp_path: Path, read: object, data: object, words: str
) -> None:
    with pytest.raises(MmcbError, match=words) as caught:
        read(write(tmp_path, data))  # type: ignore[operator]
    assert "file.json" in caught.value.message
