import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcb.errors import MmcbError
from mmcb.generation import make_generator
from mmcb.generation.config import EngineConfig
from mmcb.generation.factory import check_available
from mmcb.generation.images import open_image
from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.records import Message
from tests.generation.fake_server import CUT, EMPTY, FAULT, GARBAGE, GOOD, HALF, SILENT, FakeServer

SAMPLING = Sampling(max_new_tokens=7, temperature=0.5, top_p=0.9, seed=3)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer().running() as running:
        yield running


def ask(name: str, *, image: Path | None = None, prefill: str = "") -> Request:
    return Request(name, (Message(role="user", content=f"say {name}"),), image, prefill)


REQUESTS = [ask(name) for name in "abcdefgh"]


def answers(
    server: FakeServer, requests: list[Request], **settings: object
) -> tuple[list[Completion], MmcbError | None]:
    """What came out before the run ended, and the error that ended it."""
    done: list[Completion] = []
    try:
        for batch in make_generator(server.config(**settings), "fake-model").generate(
            requests, SAMPLING
        ):
            done += batch
    except MmcbError as error:
        return done, error
    return done, None


def test_every_request_is_answered_and_sampled_as_told(server: FakeServer) -> None:
    done, error = answers(server, REQUESTS)
    assert error is None
    assert {c.id: c for c in done} == {
        r.id: Completion(r.id, f"re: say {r.id}", "stop", 4) for r in REQUESTS
    }
    sent = server.chats[0]
    assert sent["model"] == "fake-model"
    assert sent["messages"] == [{"role": "user", "content": "say a"}]
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"]) == (7, 0.5, 0.9)
    # A server that is not vLLM gets OpenAI's settings and no others.
    assert not {"top_k", "repetition_penalty", "add_special_tokens"} & sent.keys()
    seeds = {chat["messages"][0]["content"]: chat["seed"] for chat in server.chats}
    assert len(set(seeds.values())) == len(REQUESTS)
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    server.chats.clear()
    answers(server, REQUESTS[::-1])
    assert {chat["messages"][0]["content"]: chat["seed"] for chat in server.chats} == seeds


def test_images_arrive_as_data_urls_with_the_same_pixels(
    server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(values).save(path, exif=exif)
    (tmp_path / "empty.png").touch()
    done, error = answers(
        server, [ask("a", image=path), ask("b", image=tmp_path / "empty.png"), ask("c")]
    )
    assert error is None
    assert [c.finish_reason for c in sorted(done, key=lambda c: c.id)] == ["stop", "error", "stop"]
    picture, text = server.chats[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "say a"}
    header, data = picture["image_url"]["url"].split(",")
    assert header == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as arrived:
        assert arrived.size == (30, 40)
        assert np.array_equal(np.asarray(arrived), np.asarray(open_image(path)))


def test_words_of_the_data_never_become_special_tokens(server: FakeServer) -> None:
    text = "<image> </s> <|im_end|> <b> a<b"
    answers(server, [Request("a", (Message(role="user", content=text),))])
    assert server.chats[0]["messages"][0]["content"] == "< image> < /s> < |im_end|> <b> a<b"


@pytest.mark.parametrize("trouble", [429, 500, 503, CUT, HALF])
def test_trouble_that_passes_is_waited_out(server: FakeServer, trouble: str | int) -> None:
    server.script.extend([GOOD, trouble])
    done, error = answers(server, REQUESTS[:3])
    assert error is None
    assert sorted(c.text for c in done) == ["re: say a", "re: say b", "re: say c"]
    assert len(server.chats) == 4


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (429, r"too many requests \(429\), after 2 retries: .*status 429"),
        (500, "answered 500, after 2 retries: .*status 500"),
        (401, "refused with 401"),
        (404, "answered 404, not retried"),
        (CUT, "the connection was cut, after 2 retries"),
        (HALF, "the connection was cut, after 2 retries: the stream ended before the answer"),
        (EMPTY, "the connection was cut, after 2 retries: the stream ended before the answer"),
        (FAULT, "broke off an answer: the engine died"),
        (GARBAGE, "the answer is no chat completion: it came as text/html"),
        (SILENT, "sent nothing for 1 s"),
    ],
)
def test_trouble_that_stays_is_a_sentence_and_keeps_what_was_done(
    server: FakeServer, trouble: str | int, sentence: str
) -> None:
    server.script.extend([GOOD, GOOD])
    server.always = trouble
    settings = {"server_timeout": 1.0} if trouble == SILENT else {}
    done, error = answers(server, REQUESTS, **settings)
    assert [c.text for c in done] == ["re: say a", "re: say b"]
    assert error is not None
    assert error.hint
    with pytest.raises(MmcbError, match=sentence):
        raise error
    if trouble == SILENT:
        assert len(server.chats) == 3  # not asked again: that would take as long once more
    # One request was in trouble; the others were not even begun.
    assert len({str(chat["messages"]) for chat in server.chats}) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_does_not_stop_the_others(
    server: FakeServer, status: int
) -> None:
    server.script.extend([GOOD, status])
    done, error = answers(server, REQUESTS)
    assert error is None
    assert sorted(c.id for c in done) == list("abcdefgh")
    assert {c.id for c in done if c.finish_reason == "error"} == {"b"}
    assert len(server.chats) == len(REQUESTS)  # not retried


def test_requests_are_under_way_together(server: FakeServer) -> None:
    done, error = answers(server, [ask(str(n)) for n in range(40)], concurrency=4)
    assert error is None
    assert len(done) == 40
    assert 2 <= server.most_at_once <= 4


def test_leaving_early_begins_no_further_request(server: FakeServer) -> None:
    generator = make_generator(server.config(), "fake-model")
    for _ in generator.generate(REQUESTS, SAMPLING):
        break
    again = [c for batch in generator.generate(REQUESTS[:2], SAMPLING) for c in batch]
    assert len(again) == 2
    assert len(server.chats) < len(REQUESTS) + 2


def test_only_vllm_goes_on_from_a_prefill(server: FakeServer) -> None:
    begun = [ask("a", prefill="sure ,"), ask("b")]
    _, error = answers(server, begun)
    assert error is not None
    assert "cannot go on from a prefill" in error.message
    assert not server.chats
    server.owner = "vllm"
    done, error = answers(server, begun)
    assert error is None
    by_id = {c.id: c for c in done}
    # The words go on where the prefill ends, and vLLM counts the end-of-sequence token.
    assert by_id["a"] == Completion("a", " re: say a", "stop", 3)
    assert by_id["b"].text == "re: say b"
    first, second = server.chats
    assert first["messages"][-1] == {"role": "assistant", "content": "sure ,"}
    assert first["continue_final_message"] is True
    assert first["add_generation_prompt"] is False
    assert "continue_final_message" not in second
    for chat in (first, second):
        assert (chat["top_k"], chat["min_p"], chat["repetition_penalty"]) == (0, 0.0, 1.0)
        assert chat["add_special_tokens"] is True  # as its /tokenize showed


def test_the_model_is_found_by_any_of_its_names(server: FakeServer) -> None:
    with FakeServer().running() as other:
        other.models = ["llava-hf/llava-v1.6-mistral-7b-hf", "tiny-mistral"]
        both = server.config(server_url=(server.url, f"{other.url}/v1/"))
        family = check_available(both, "llava-next")
        assert family is not None
        assert family.kind == "vlm"
        assert check_available(both, "fake-model") is None
        for name, model in [("llava-next", other.models[0]), ("tiny-mistral", "tiny-mistral")]:
            list(make_generator(both, name).generate(REQUESTS[:1], SAMPLING))
            assert other.chats[-1]["model"] == model
        with pytest.raises(MmcbError, match=r"no model 'mistral' on .*, only fake-model, llava-hf"):
            check_available(both, "mistral")
    server.models = None  # a server without the list is taken at its word
    assert check_available(server.config(), "anything") is None


def test_the_key_comes_from_the_environment(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "zorch")
    check_available(server.config(), "fake-model")
    monkeypatch.delenv("OPENAI_API_KEY")
    check_available(server.config(), "fake-model")
    assert server.keys == ["Bearer zorch", "Bearer none"]


def test_no_server_at_all(server: FakeServer) -> None:
    with FakeServer().running() as gone:
        config = gone.config(server_retries=0)
    with pytest.raises(MmcbError, match="not reached"):
        check_available(config, "fake-model")
    with pytest.raises(MmcbError, match="takes no adapter"):
        make_generator(server.config(), "fake-model", Path("adapter"))


def test_missing_packages_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    config = EngineConfig(name="server", server_url=("http://localhost",))
    with pytest.raises(MmcbError, match="openai package") as error:
        check_available(config, "tiny-mistral")
    assert error.value.hint == "pip install 'mmcb[server]'"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MmcbError, match="needs vLLM") as error:
        check_available(EngineConfig(name="vllm"), "tiny-mistral")
    assert error.value.hint == "pip install 'mmcb[vllm]'"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://"])
def test_urls_are_checked(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL"):
        EngineConfig(name="server", server_url=(url,))
    with pytest.raises(ValueError, match="needs --server-url"):
        EngineConfig(name="server")


def test_a_schema_is_sent_as_the_api_has_it(server: FakeServer) -> None:
    schema = {"type": "object", "properties": {"query": {"type": "string"}}}
    asked = Request("a", (Message(role="user", content="say a"),), json_schema=schema)
    answers(server, [asked, ask("b")])
    formats = {chat["messages"][0]["content"]: chat.get("response_format") for chat in server.chats}
    assert formats["say b"] is None
    assert formats["say a"]["type"] == "json_schema"
    assert formats["say a"]["json_schema"]["schema"] == schema
