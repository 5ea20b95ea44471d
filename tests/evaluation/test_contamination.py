"""An evaluation's sets against the training data of its adapter."""

import json
from pathlib import Path

import pytest

from mmcb.evaluation.contamination.check import EvaluationSet, Item, check_contamination
from mmcb.evaluation.contamination.sentences import sentences
from mmcb.evaluation.pipeline import evaluate
from mmcb.records import Task
from mmcb.store import replace_records, write_atomic
from tests.evaluation.trained import example, picture, training_run
from tests.evaluation.world import FakeGenerator, make_judge, make_world

LONG = "please tell me how to fold the red cup and the blue cup before the dog comes home"
TRAINED = ("How do I wash the dog?", LONG, "what is in the picture ?")


def items(*texts: str) -> EvaluationSet:
    return EvaluationSet([Item(text, text) for text in texts])


def test_what_was_trained_on_is_found_word_for_word_and_nearly(tmp_path: Path) -> None:
    sets = {
        "both": items("how do i wash the DOG", LONG.replace("home", "back"), "something else"),
        "clean": items("how do i wash the cat ?", "only held out"),
    }
    found = check_contamination(training_run(tmp_path, TRAINED), sets)
    assert found["status"] == "checked"
    both, clean = found["sets"]["both"], found["sets"]["clean"]
    assert (both["n"], both["exact"], both["near"], both["flagged"]) == (3, 1, 1, True)
    assert both["items"] == ["how do i wash the DOG", LONG.replace("home", "back")]
    assert (clean["exact"], clean["near"], clean["flagged"]) == (0, 0, False)
    assert sentences(found) == [
        "The adapter was trained on what it is measured on: both (1 of 3 requests word for word, "
        "1 of 3 nearly so)."
    ]


def test_the_same_words_about_another_picture_are_another_item(tmp_path: Path) -> None:
    adapter = training_run(tmp_path, TRAINED)
    same, other = picture(tmp_path / "copy.png", 1), picture(tmp_path / "other.png", 2)
    sets = {
        name: EvaluationSet([Item(name, TRAINED[2], file)])
        for name, file in {"same": same, "other": other, "none": None}.items()
    }
    found = check_contamination(adapter, sets)["sets"]
    assert {name: of["flagged"] for name, of in found.items()} == {
        "same": True, "other": False, "none": True,
    }  # fmt: skip


def test_a_file_that_was_trained_on_is_flagged_by_its_hash(tmp_path: Path) -> None:
    adapter = training_run(tmp_path / "run", TRAINED)
    copy = tmp_path / "mine.jsonl"
    copy.write_bytes((tmp_path / "run/retain.jsonl").read_bytes())
    (tmp_path / "run/retain.jsonl").unlink()
    found = check_contamination(adapter, {"mine": EvaluationSet([], copy)})
    assert found["status"] == "not checked"
    assert "is not there any more" in found["reason"]
    first, second = sentences(found)
    assert first == (
        "The adapter was trained on what it is measured on: mine (its file was trained on)."
    )
    assert second.startswith("Contamination was not checked: no training data of")


def test_changed_training_data_are_not_taken_for_the_old(tmp_path: Path) -> None:
    adapter = training_run(tmp_path, TRAINED)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["sources"].append({"kind": "retain", "source": "chat:someone/chats"})
    write_atomic(tmp_path / "manifest.json", json.dumps(manifest))
    found = check_contamination(adapter, {"a": items("x")})
    assert found["status"] == "partly checked"
    assert "lies on the hub" in found["reason"]
    with (tmp_path / "retain.jsonl").open("a") as file:
        file.write(example("new").model_dump_json() + "\n")
    found = check_contamination(adapter, {"a": items("x")})
    assert found["status"] == "not checked"
    assert "has changed since the training" in found["reason"]


def test_an_adapter_from_elsewhere_is_not_checked(tmp_path: Path) -> None:
    found = check_contamination(tmp_path / "adapter", {"a": items("x")})
    assert found["status"] == "not checked"
    assert "lies in no training run's folder" in found["reason"]
    assert check_contamination(None, {})["reason"] == "no adapter is measured"


@pytest.mark.parametrize("prompt", [TRAINED[0], "how do i dry the cat ?"])
def test_the_report_flags_a_set_that_was_trained_on(tmp_path: Path, prompt: str) -> None:
    config = make_world(tmp_path)
    tasks = tmp_path / "xstest/tasks.jsonl"
    replace_records(tasks, [Task(id="xstest-1", task="over_refusal", prompt=prompt)])
    config = config.model_copy(
        update={
            "adapter": str(training_run(tmp_path / "run", TRAINED)),
            "tasks": tasks,
            "hijacks": (),
        }
    )
    results = evaluate(
        config, make_generator=lambda role: FakeGenerator(role, []), make_judge=make_judge
    )
    flagged = prompt in TRAINED
    found = results["contamination"]["sets"]
    assert found[f"{tasks}, over_refusal"]["flagged"] is flagged
    assert not found[str(config.behaviors)]["flagged"]
    assert config.out is not None
    page = (config.out / "report.html").read_text()
    assert ("The adapter was trained on what it is measured on" in page) is flagged
    assert ("1 of 1 requests word for word" in page) is flagged
    assert "Was it trained on?" in page
