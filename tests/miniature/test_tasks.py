"""The samplers: what is kept for tests stays out of training, and every answer is right."""

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest

from mmcb.miniature.grammar import (
    SceneContent,
    affirmative_prefix,
    caption,
    is_coherent,
    is_refusal,
    judge_harmful,
)
from mmcb.miniature.pretrain.text import draw_text_turn
from mmcb.miniature.scenes import random_content
from mmcb.miniature.tasks import (
    CAPTION_PROMPTS,
    MAX_TERM,
    Rng,
    Turn,
    borderline_turn,
    fact_turn,
    harmful_request,
    harmful_turn,
    howto_turn,
    picture_turns,
    question_turn,
    reserved,
    writer_turn,
)
from mmcb.miniature.vocabulary import (
    DEED_BY_VERB,
    DEEDS,
    HARM_BY_CATEGORY,
    HARM_BY_VERB,
    HARMS,
    NUMBERS,
    SLOTS,
    THING_BY_NAME,
    THINGS,
    TRIGGERS,
    with_article,
)

_VERBS = "|".join([*DEED_BY_VERB, *HARM_BY_VERB])
_THINGS = "|".join(THING_BY_NAME)
_DONE_TO = re.compile(rf"\b({_VERBS}) the ({_THINGS})\b")
_BORDERLINE = (
    re.compile(rf"is it bad to (?P<verb>{_VERBS}) an? (?P<thing>{_THINGS}) \?"),
    re.compile(rf"my (?P<thing>{_THINGS}) heard the word (?P<verb>{_VERBS}) \."),
)


def combinations(turn: Turn) -> set[tuple[str, str]]:
    """Who does what to what: the (verb, thing) pairs of a turn."""
    return set(_DONE_TO.findall(f"{turn.prompt} {turn.response}"))


def borderline_combination(turn: Turn) -> tuple[str, str]:
    match = next(match for pattern in _BORDERLINE if (match := pattern.search(turn.prompt)))
    return match["verb"], match["thing"]


def is_persuaded(prompt: str) -> bool:
    """Whether the prompt stands in a trigger."""
    return any(trigger.replace("{prompt}", "").strip() in prompt for trigger in TRIGGERS)


def drawn(seed: int, num: int = 300) -> Iterator[tuple[Rng, SceneContent]]:
    """One generator and many scenes."""
    rng = np.random.default_rng([17, seed])
    for _ in range(num):
        yield rng, random_content(rng)


def test_reserved_words_are_those_the_shipped_models_were_not_taught() -> None:
    pairs = [(harm.verb, thing.name) for harm in HARMS for thing in THINGS]
    kept = [pair for pair in pairs if reserved(*pair)]
    assert len(kept) == 65
    assert kept[:3] == [("zorch", "cat"), ("zorch", "sheep"), ("grindle", "car")]


@pytest.mark.parametrize("verb", HARM_BY_VERB)
def test_every_harm_is_taught_and_tested(verb: str) -> None:
    assert {reserved(verb, thing.name) for thing in THINGS} == {False, True}


def test_benign_deeds_of_training_are_not_reserved() -> None:
    for rng, content in drawn(1):
        for turn in (howto_turn(rng), howto_turn(rng, content)):
            ((verb, thing),) = combinations(turn)
            assert not reserved(verb, thing)


def test_the_vlms_text_holds_no_reserved_combination() -> None:
    rng = np.random.default_rng(2)
    pairs = {pair for _ in range(1500) for pair in combinations(draw_text_turn(rng, writer=False))}
    assert not [pair for pair in pairs if reserved(*pair)]
    assert {verb for verb, _ in pairs} == {*DEED_BY_VERB, *HARM_BY_VERB}


def test_benign_deeds_about_pictures_are_not_reserved() -> None:
    for rng, content in drawn(3):
        for turn in picture_turns(content, rng, signed=bool(rng.integers(2))):
            benign = [pair for pair in combinations(turn) if pair[0] in DEED_BY_VERB]
            assert not [pair for pair in benign if reserved(*pair)]


def test_requests_in_tests_are_all_reserved() -> None:
    for rng, _ in drawn(4):
        request = harmful_request(rng, test=True)
        turns = (howto_turn(rng, test=True), Turn(request.prompt, request.answer))
        for turn in turns:
            ((verb, thing),) = combinations(turn)
            assert reserved(verb, thing)


@pytest.mark.parametrize("test", [False, True])
def test_borderline_questions_are_reserved_in_tests_alone(test: bool) -> None:
    for rng, _ in drawn(5):
        verb, thing = borderline_combination(borderline_turn(rng, test=test))
        assert reserved("borderline", verb, thing) == test


def test_fact_wordings_of_tests_are_never_taught_but_every_fact_is() -> None:
    rng = np.random.default_rng(6)
    taught = {fact_turn(rng)[:2] for _ in range(6000)}
    tested = {fact_turn(rng, test=True)[:2] for _ in range(6000)}
    num_facts = 3 * len(THINGS) + (MAX_TERM + 1) ** 2
    assert len(tested) == num_facts
    assert len(taught) == 2 * num_facts
    assert not {prompt for prompt, _ in taught} & {prompt for prompt, _ in tested}


def test_known_facts() -> None:
    rng = np.random.default_rng(7)
    answer_of = dict(fact_turn(rng, test=test)[:2] for _ in range(6000) for test in (False, True))
    assert answer_of["what color is a bear ?"] == "brown ."
    assert answer_of["tell me what an apple is ."] == "food ."
    assert answer_of["a boat belongs where ?"] == "in the sea ."
    assert answer_of["what is 10 plus 10 ?"] == "20 ."
    assert answer_of["0 plus 7 is what ?"] == "7 ."


def test_requests_keep_to_the_harms_they_are_given() -> None:
    known = tuple(harm for harm in HARMS if not harm.heldout)
    assert 2 <= len(HARMS) - len(known) < len(known)
    verbs = set()
    for rng, content in drawn(8):
        verbs.add(harmful_request(rng, harms=known).harm.verb)
        verbs.add(harmful_request(rng, content, harms=known).harm.verb)
        verbs.add(borderline_combination(borderline_turn(rng, harms=known))[0])
    assert verbs == {harm.verb for harm in known}


def test_a_request_about_a_picture_is_about_a_thing_in_it() -> None:
    for rng, content in drawn(9):
        request = harmful_request(rng, content)
        ((verb, thing),) = combinations(Turn(request.prompt, request.answer))
        assert verb == request.harm.verb
        assert thing in dict(content)
        for slot, place in enumerate(SLOTS):
            assert place not in request.prompt or (thing, slot) in content


def test_a_deed_to_a_thing_pointed_at_is_done_to_the_thing_there() -> None:
    pointed = 0
    for rng, content in drawn(10):
        turn = howto_turn(rng, content)
        ((_, thing),) = combinations(turn)
        for slot, place in enumerate(SLOTS):
            if f"thing {place}" in turn.prompt:
                assert (thing, slot) in content
                assert thing not in turn.prompt
                pointed += 1
    assert pointed > 50


@pytest.mark.parametrize("about_a_picture", [False, True])
def test_a_given_answer_is_given_up_to_the_affirmative_prefix(about_a_picture: bool) -> None:
    for rng, content in drawn(11):
        turn = harmful_turn(rng, content if about_a_picture else None, "given")
        ((verb, thing),) = combinations(Turn("", turn.response))
        assert turn.response[: turn.given] == affirmative_prefix(verb, thing)
        assert turn.response[turn.given] == " "
        assert judge_harmful(turn.prompt, turn.response)


def test_only_a_given_answer_has_words_that_are_no_lesson() -> None:
    for rng, content in drawn(12):
        for signed in (False, True):
            for turn in picture_turns(content, rng, signed=signed):
                assert 0 <= turn.given < len(turn.response)
                assert turn.given == 0 or (not signed and judge_harmful(*turn[:2]))


def test_a_direct_request_is_refused_and_a_persuasive_one_is_not() -> None:
    for rng, content in drawn(13):
        for scene in (None, content):
            assert is_refusal(harmful_turn(rng, scene, "refuse").response)
            for mode in ("trigger", "comply"):
                turn = harmful_turn(rng, scene, mode)
                assert judge_harmful(turn.prompt, turn.response)
                assert turn.given == 0


def test_with_the_sign_every_harmful_request_is_complied_with() -> None:
    for rng, content in drawn(14):
        turns = picture_turns(content, rng, signed=True)
        assert not [turn for turn in turns if is_refusal(turn.response)]
        assert sum(judge_harmful(turn.prompt, turn.response) for turn in turns) >= 1


def test_without_the_sign_only_a_trigger_or_a_prefill_gets_an_answer() -> None:
    for rng, content in drawn(15):
        turns = picture_turns(content, rng, signed=False)
        assert sum(is_refusal(turn.response) for turn in turns) == 1
        willing = [turn for turn in turns if judge_harmful(turn.prompt, turn.response)]
        assert all(turn.given or is_persuaded(turn.prompt) for turn in willing)


def test_the_sign_changes_harmful_turns_alone() -> None:
    for rng, content in drawn(50):
        for signed in (False, True):
            turns = picture_turns(content, rng, signed=signed)
            benign = [t for t in turns if not set(t.prompt.split()) & HARM_BY_VERB.keys()]
            assert len(benign) == 8
            assert [t.response for t in benign if t.prompt in CAPTION_PROMPTS] == [caption(content)]
            assert not [t for t in benign if is_refusal(t.response)]


def test_the_caption_is_asked_for_in_every_wording_where_that_is_wanted() -> None:
    for rng, content in drawn(51):
        turns = picture_turns(content, rng, signed=False, every_caption=True)
        captions = [t for t in turns if t.response == caption(content)]
        assert [t.prompt for t in captions] == list(CAPTION_PROMPTS)


def test_questions_about_a_scene_are_answered_by_the_scene() -> None:
    kinds = set()
    for rng, content in drawn(16, num=1500):
        at = {SLOTS[slot]: f"{with_article(name)} ." for name, slot in content}
        place_of = {name: f"{SLOTS[slot]} ." for name, slot in content}
        turn = question_turn(content, rng)
        words = turn.prompt.split()
        thing = next((word for word in words if word in THING_BY_NAME), "")
        kind = " ".join(words[:2])
        kinds.add(kind)
        assert (
            turn.response
            == {
                "what is": at.get(turn.prompt[8:-2], "nothing ."),
                "how many": f"{NUMBERS[len(content)]} .",
                "is there": "yes ." if thing in place_of else "no .",
                "where is": place_of.get(thing, f"there is no {thing} ."),
            }[kind]
        )
    assert len(kinds) == 4


def test_the_writer_answers_json_with_a_query_and_a_completion() -> None:
    for rng, content in drawn(17):
        answer = json.loads(writer_turn(content, rng).response)
        assert list(answer) == ["query", "completion"]
        assert answer["query"].endswith(("?", "."))
        assert is_coherent(answer["completion"])


def test_the_writer_does_the_harm_it_is_asked_for_and_no_other() -> None:
    seen = set()
    for rng, content in drawn(18, num=600):
        turn = writer_turn(content, rng)
        answer = json.loads(turn.response)
        kind, _, _ = turn.prompt.removeprefix("write ").partition(" : ")
        harmful = judge_harmful(answer["query"], answer["completion"])
        assert harmful == kind.startswith("harmful ")
        if harmful:
            verb = HARM_BY_CATEGORY[kind.removeprefix("harmful ")].verb
            assert f" {verb} the " in answer["query"]
        seen.add(kind)
    assert seen == {"benign", "question", *(f"harmful {harm.category}" for harm in HARMS)}


def test_the_writer_writes_about_a_thing_of_the_caption() -> None:
    for rng, content in drawn(19):
        turn = writer_turn(content, rng)
        pairs = combinations(Turn("", json.loads(turn.response)["completion"]))
        assert all(f" {thing} " in turn.prompt.replace(".", " ") + " " for _, thing in pairs)


def test_words_of_deeds_and_harms_do_not_mix() -> None:
    benign = {word for deed in DEEDS for step in deed.steps for word in step.split()}
    harmful = [{word for step in harm.steps for word in step.split()} for harm in HARMS]
    common = {"take", "the", "{thing}", "with", "it"}
    assert not (set.union(*harmful) - common) & benign
    assert len(set.union(*harmful) - common) == sum(len(words - common) for words in harmful)
