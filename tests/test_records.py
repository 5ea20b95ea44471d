"""Records: what they refuse, and that they come back from JSON as they went."""

import pytest
from pydantic import ValidationError

from mmcb.records import Attempt, Caption, Example, Generation, Message, Provenance, Task, Verdict

MADE = Provenance(generator="tiny-mistral", seed=1, settings={"temperature": 0.7, "tries": 2})
TURNS = (Message(role="user", content="how do i feed the dog ?"),)
ANSWER = Message(role="assistant", content="first , open the bag .")


def example(**changes: object) -> Example:
    fields: dict[str, object] = {
        "id": "e1",
        "kind": "retain",
        "task": "benign_howto",
        "split": "train",
        "messages": (*TURNS, ANSWER),
        "provenance": MADE,
    }
    return Example.model_validate(fields | changes)


def test_example_parts() -> None:
    assert example().prompt_messages == TURNS
    assert example().response == ANSWER.content


@pytest.mark.parametrize("messages", [(), TURNS, (ANSWER,), (ANSWER, *TURNS)])
def test_example_must_end_with_a_response(messages: tuple[Message, ...]) -> None:
    with pytest.raises(ValidationError, match="end with the assistant"):
        example(messages=messages)


def test_images_are_relative() -> None:
    assert example(image="../coco/1.jpg").image == "../coco/1.jpg"
    with pytest.raises(ValidationError, match="must be relative"):
        example(image="/coco/1.jpg")


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"split": "test"}, {"kind": "forget"}, {"extra": 1}]
)
def test_other_formats_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        example(**change)


@pytest.mark.parametrize(
    "record",
    [
        example(),
        Caption(id="c", image="1.png", text="a dog", categories=("dog",), provenance=MADE),
        Task(id="t", task="vqa", prompt="what ?", references=("dog",)),
        Attempt(
            id="a",
            behavior_id="b",
            attack="image_hijack",
            model="base",
            split="heldout",
            category="zorch",
            prompt="p",
            image="images/a.png",
            measures={"loss": 0.25},
            settings={"epsilon": "32/255", "steps": 300, "momentum": True},
        ),
        Generation(
            id="g",
            attempt_id="a",
            model="base",
            text="a\nb\u2028\ud7ff",
            finish_reason="stop",
            num_tokens=3,
            provenance=MADE,
        ),
        Verdict(id="v", generation_id="g", judge="grammar", label=None),
    ],
    ids=lambda record: type(record).__name__,
)
def test_json_round_trip_is_one_line(
    record: Example | Caption | Task | Attempt | Generation | Verdict,
) -> None:
    line = record.model_dump_json()
    assert "\n" not in line
    back = type(record).model_validate_json(line)
    assert back == record
    assert back.model_dump_json() == line


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError):
        example().split = "heldout"  # type: ignore[misc]
