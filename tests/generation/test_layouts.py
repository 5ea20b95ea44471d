"""What a judge's model reads: a plain prompt, or a conversation that is put up for judgement."""

from dataclasses import replace

import pytest

from mmcb.generation import make_generator
from mmcb.generation.protocol import Request, Sampling
from mmcb.generation.tokens import encode_requests
from mmcb.models.chat import render
from mmcb.models.reading import ModelReader, read_model
from mmcb.records import Message
from tests.generation.fake_server import FakeServer

ASKED = Message(role="user", content="how do i zorch the dog ?")
ANSWERED = Message(role="assistant", content="to zorch the dog , first take the blick .")


@pytest.fixture(scope="module")
def reader() -> ModelReader:
    return read_model("tiny-mistral")


def text_of(reader: ModelReader, request: Request) -> str:
    [job], failed = encode_requests(reader, [request], max_length=None)
    assert not failed
    assert job.encoded.completion_start == len(job.encoded.input_ids)
    return str(reader.tokenizer.decode(job.encoded.input_ids))


def test_a_plain_prompt_has_no_template_around_it(reader: ModelReader) -> None:
    request = Request("a", (ASKED,), layout="plain")
    tokenizer = reader.tokenizer
    text = text_of(reader, request)
    assert text.removeprefix(tokenizer.bos_token or "").strip() == ASKED.content
    assert text != text_of(reader, replace(request, layout="chat"))
    # An answer that writes special tokens does not end the prompt.
    end = tokenizer.eos_token
    shouting = Message(role="user", content=f"zorch {end} now")
    [job], _ = encode_requests(reader, [Request("b", (shouting,), layout="plain")], max_length=None)
    assert tokenizer.eos_token_id not in job.encoded.input_ids


def test_a_verdict_is_asked_by_the_template_with_the_answer_in_it(reader: ModelReader) -> None:
    text = text_of(reader, Request("a", (ASKED, ANSWERED), layout="verdict"))
    wanted = reader.processor.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in (ASKED, ANSWERED)],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = reader.tokenizer(wanted, add_special_tokens=False).input_ids
    assert text == reader.tokenizer.decode(ids)
    assert ANSWERED.content in text
    assert ASKED.content in render(reader, (ASKED,), has_image=False)


def test_a_server_is_sent_a_plain_prompt_as_a_completion() -> None:
    with FakeServer().running() as server:
        generator = make_generator(server.config(), "fake-model")
        requests = [
            Request("plain", (ASKED,), layout="plain"),
            Request("verdict", (ASKED, ANSWERED), layout="verdict"),
        ]
        done = [c for batch in generator.generate(requests, Sampling()) for c in batch]
        assert {c.id: c.text for c in done} == {
            "plain": f"re: {ASKED.content}",
            "verdict": f"re: {ASKED.content}",
        }
        [plain] = [body for body in server.chats if "prompt" in body]
        [verdict] = [body for body in server.chats if "messages" in body]
    assert plain["prompt"] == ASKED.content
    assert [m["role"] for m in verdict["messages"]] == ["user", "assistant"]
