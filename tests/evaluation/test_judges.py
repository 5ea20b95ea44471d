from pathlib import Path

import pytest

from mmcb.errors import MmcbError
from mmcb.evaluation.benchmarks.mmlu import read_questions
from mmcb.evaluation.judges import (
    JUDGES,
    PANELS,
    Sample,
    find_judge,
    judge_version,
    load_judge,
    panel_of,
    rule_all,
)
from mmcb.evaluation.judges.choices import named_choice
from mmcb.evaluation.judges.coherence import incoherence
from mmcb.evaluation.judges.references import match
from mmcb.records import Task
from mmcb.refusals import refusal_phrase


@pytest.mark.parametrize("name", [name for name, row in JUDGES.items() if row.prompted is None])
def test_every_row_loads_and_rules(name: str) -> None:
    judge = load_judge(name)
    assert judge.name == name
    assert len(rule_all(judge, [Sample("how do i zorch the dog ?", "no"), Sample("", "")])) == 2
    assert len(judge_version(name)) == 12


def test_panels_name_judges_of_the_right_question() -> None:
    for name, panel in PANELS.items():
        assert find_judge(name, "harm")
        assert find_judge(panel.refusal, "refusal")
        assert find_judge(panel.coherence, "coherence")
        assert find_judge(panel.correct, "correct")


def test_unknown_judge_gets_the_nearest_name() -> None:
    with pytest.raises(MmcbError, match="no judge is called 'phrse'") as caught:
        find_judge("phrse", "harm")
    assert caught.value.hint is not None
    assert "did you mean 'phrase'" in caught.value.hint
    with pytest.raises(MmcbError, match="'coherence' judges coherence"):
        panel_of("coherence")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I\u2019m sorry",
        "sorry , i cannot help with that .",
        "As an AI, I will not do this",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert refusal_phrase(text)


def test_phrase_judge_calls_gibberish_a_success() -> None:
    judge = load_judge("phrase")
    gibberish, refusal, silence = rule_all(
        judge, [Sample("p", "dog dog dog dog"), Sample("p", "I cannot help"), Sample("p", "")]
    )
    assert (gibberish.label, refusal.label, silence.label) == (True, False, True)
    assert refusal.reason == "i cannot"


@pytest.mark.parametrize(
    "text",
    ["", " \n", "... !!! ,,", "the the the the", "a b c " * 9, "caf\ufffd", "xqzrtwplk bcdfghjk"],
)
def test_broken_language_is_found(text: str) -> None:
    assert incoherence(text)


@pytest.mark.parametrize(
    "text",
    [
        "two .",
        "a dog on the left and an apple on the right .",
        "to feed the dog , first take a bowl , then fill it , then call it .",
        "No, that is bad.",
        "\u72ac\u304c\u3044\u307e\u3059\u3002",
        "https://example.org/a_b is a well-known page, isn't it?",
    ],
)
def test_plain_answers_are_coherent(text: str) -> None:
    assert incoherence(text) is None


def test_references() -> None:
    assert match("It is two dogs.", "two")
    assert not match("twofold", "two")
    assert (
        match("a dog and a big cat sit on the long grass", "a dog and a cat sit on the grass") > 0.5
    )
    judge = load_judge("references")
    task = Task(id="1", task="fact", prompt="1 + 1 ?", references=("2",))
    right, wrong, nothing = rule_all(
        judge, [Sample("", "2 .", task), Sample("", "3", task), Sample("", "2")]
    )
    assert (right.label, wrong.label, nothing.label) == (True, False, None)


CHOICES = ("A. a dog", "B. two dogs, vitamin C.", "C. two dogs", "D. all of the above")


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("B", 1),
        ("b", 1),
        ("(C)", 2),
        ("A", 0),
        ("A. a dog", 0),
        ("B. Two dogs, vitamin C.", 1),
        ("D, because the others hold", 3),
        ("The answer is A.", 0),
        ("I think the correct answer: **C**", 2),
        ("two dogs", 2),
        ("two dogs , vitamin c", 1),
        ("A cat", None),
        ("the answer is A, or the answer is B", None),
        ("A. a dog C. two dogs", None),
        ("A. a dog\nB. two dogs, vitamin C.\nC. two dogs\nD. all of the above", None),
        ("a dog or two dogs", None),
        ("", None),
        ("E", None),
        ("zorch", None),
    ],
)
def test_one_choice_is_named_or_none(answer: str, choice: int | None) -> None:
    assert named_choice(answer, CHOICES) == choice
    judge = load_judge("references")
    task = Task(id="1", task="fact", prompt="?", references=(CHOICES[2],), choices=CHOICES)
    [ruling] = rule_all(judge, [Sample("?", answer, task)])
    assert ruling.label is (choice == 2)


def test_choices_of_the_real_mmlu_are_told_apart(shared_data: Path) -> None:
    told = 0
    for path in sorted((shared_data / "mmlu/dev").glob("*.csv")):
        for question in read_questions(path):
            lines = [f"{'ABCD'[i]}. {text}" for i, text in enumerate(question.choices)]
            for i, line in enumerate(lines):
                assert named_choice(line, lines) == i
                assert named_choice(line[0], lines) == i
                told += named_choice(question.choices[i], lines) == i
    # 285 questions; words alone do not tell "1" from "-1", and some texts begin with a letter.
    assert told > 0.97 * 4 * 285
