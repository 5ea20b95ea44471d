"""The engines over the real vLLM, in this process and as a server, against transformers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from benchmarks.generation.agreement import difference
from mmcb.captioning.config import DEFAULT_PROMPT
from mmcb.errors import MmcbError
from mmcb.generation import make_generator
from mmcb.generation.config import EngineConfig
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.generation.transformers_engine import TransformersGenerator
from mmcb.miniature.config import MiniatureConfig
from mmcb.miniature.world import write_world
from mmcb.models.export import save_adapter
from mmcb.models.loading import load_model
from mmcb.records import Message
from mmcb.synthesis.parsing import PAIR_SCHEMA, parse_pair
from tests.vllm.engines import in_process

pytestmark = pytest.mark.vllm

NUM_SCENES = 200
AS_GOOD_AS_EQUAL = 1e-3
"""Two tokens whose logits differ by less may be chosen the other way round by other kernels."""

GREEDY = Sampling(max_new_tokens=64)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("miniature") / "world"
    write_world(MiniatureConfig(out=out, num_train=4, num_val=4, num_test=NUM_SCENES))
    return out


@pytest.fixture(scope="module")
def requests(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Captions of all scenes; prefills and texts; and one image that cannot be read."""
    images = sorted((world / "test2017").iterdir())

    def ask(name: str, text: str, image: Path | None = None, prefill: str = "") -> Request:
        return Request(name, (Message(role="user", content=text),), image, prefill)

    asked = [ask(f"caption-{i}", DEFAULT_PROMPT, image) for i, image in enumerate(images)]
    begun = ("a", "a dog", "there is", "a red")
    for index in range(20):
        prefill, image = begun[index % 4], images[index]
        asked.append(ask(f"prefill-{index}", DEFAULT_PROMPT, image, prefill))
        asked.append(ask(f"text-{index}", f"what is {index} plus {index % 7} ?"))
        asked.append(ask(f"text-prefill-{index}", "how do i zorch the dog ?", None, "to zorch"))
    broken = tmp_path_factory.mktemp("images") / "broken.png"
    broken.write_bytes(b"no image")
    return [*asked, ask("broken", DEFAULT_PROMPT, broken)]


@pytest.fixture(scope="module")
def reference() -> TransformersGenerator:
    return TransformersGenerator(load_model("tiny-llava-next", device="cpu"))


@pytest.fixture(scope="module")
def expected(reference: TransformersGenerator, requests: list[Request]) -> dict[str, Completion]:
    return answers(reference, requests)


@pytest.fixture(scope="module")
def server(vlm_url: str) -> TextGenerator:
    return make_generator(EngineConfig(name="server", server_url=(vlm_url,)), "tiny-llava-next")


def answers(
    generator: TextGenerator, requests: list[Request], sampling: Sampling = GREEDY
) -> dict[str, Completion]:
    done = [c for batch in generator.generate(requests, sampling) for c in batch]
    assert sorted(c.id for c in done) == sorted(request.id for request in requests)
    return {completion.id: completion for completion in done}


@pytest.mark.parametrize("engine", ["vlm", "server"])
def test_greedy_is_the_same_on_every_engine(
    engine: str,
    requests: list[Request],
    expected: dict[str, Completion],
    reference: TransformersGenerator,
    request: pytest.FixtureRequest,
) -> None:
    found = answers(request.getfixturevalue(engine), requests)
    assert found["broken"] == Completion("broken", "", "error", 0)
    differing = [r for r in requests if found[r.id] != expected[r.id]]
    captions = [r for r in differing if r.id.startswith("caption")]
    assert len(captions) <= NUM_SCENES // 100
    assert len(differing) <= len(requests) // 100
    for each in differing:
        apart = difference(
            reference.loaded, each, ours=expected[each.id].text, theirs=found[each.id].text
        )
        assert abs(apart.gap) < AS_GOOD_AS_EQUAL, apart


@pytest.mark.parametrize("engine", ["vlm", "server"])
def test_a_seed_fixes_a_sampled_text_whatever_else_is_asked(
    engine: str, requests: list[Request], request: pytest.FixtureRequest
) -> None:
    generator = request.getfixturevalue(engine)
    sampling = Sampling(max_new_tokens=24, temperature=2.0, seed=5)
    together = answers(generator, requests[:16], sampling)
    alone = answers(generator, requests[3:4], sampling)
    assert alone[requests[3].id] == together[requests[3].id]
    other = answers(generator, requests[:16], sampling.model_copy(update={"seed": 6}))
    assert any(other[id_].text != together[id_].text for id_ in other)
    narrow = answers(generator, requests[:16], sampling.model_copy(update={"top_p": 1e-6}))
    greedy = answers(generator, requests[:16], Sampling(max_new_tokens=24))
    assert narrow == greedy


@pytest.mark.parametrize("engine", ["vlm", "server"])
def test_the_limit_cuts_and_leaving_early_is_clean(
    engine: str, requests: list[Request], request: pytest.FixtureRequest
) -> None:
    generator = request.getfixturevalue(engine)
    short = Sampling(max_new_tokens=3)
    for _ in generator.generate(requests, short):
        break
    cut = answers(generator, requests[:2], short)
    assert {(c.finish_reason, c.num_tokens) for c in cut.values()} == {("length", 3)}


def test_a_prompt_that_is_too_long_is_answered_in_process(vlm: TextGenerator) -> None:
    long = Request("long", (Message(role="user", content="dog " * 5000),))
    assert answers(vlm, [long])["long"] == Completion("long", "", "error", 0)


COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("engine", ["vlm", "server"])
def test_a_schema_guides_the_decoding(
    engine: str, requests: list[Request], request: pytest.FixtureRequest
) -> None:
    generator = request.getfixturevalue(engine)
    asked = [r for r in requests if r.id in ("caption-0", "caption-1", "text-0", "text-1")]
    free = answers(generator, asked)
    assert not any(c.text.startswith("{") for c in free.values())
    guided = [replace(r, json_schema=COLOUR) for r in asked]
    # In one batch with requests that have none, which are not to notice.
    others = [replace(r, id=f"free-{r.id}") for r in asked]
    found = answers(generator, [*guided, *others], Sampling(max_new_tokens=64))
    for each in asked:
        assert found[each.id].finish_reason == "stop"
        assert json.loads(found[each.id].text) in ({"colour": "red"}, {"colour": "blue"})
        assert found[f"free-{each.id}"].text == free[each.id].text
    pairs = [replace(r, json_schema=PAIR_SCHEMA) for r in asked]
    for completion in answers(generator, pairs, Sampling(max_new_tokens=128)).values():
        assert re.match(r'\{\s*"query"\s*:\s*"', completion.text)
        if completion.finish_reason == "stop":
            assert parse_pair(completion.text) is not None


def test_an_adapter_counts(requests: list[Request], tmp_path: Path) -> None:
    # The random draws must move the text, and not break it: else everything would be cut alike.
    loaded = load_model("tiny-mistral", device="cpu")
    lora = LoraConfig(r=4, lora_alpha=4, target_modules=loaded.family.lora_targets(1, 3))
    model = get_peft_model(loaded.model, lora).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.15, generator=generator)
    adapter = save_adapter(replace(loaded, model=model), tmp_path / "adapter")
    texts = [r for r in requests if r.id.startswith("text")]
    base = answers(make_generator(EngineConfig(), "tiny-mistral"), texts)
    expected = answers(make_generator(EngineConfig(), "tiny-mistral", adapter), texts)
    assert sum(base[id_].text != expected[id_].text for id_ in base) > len(base) // 2
    found = answers(in_process("tiny-mistral", adapter), texts)
    assert sum(found[id_] == expected[id_] for id_ in found) >= len(found) - 1


def test_what_vllm_cannot_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="not an adapter"):
        make_generator(EngineConfig(name="vllm"), "tiny-mistral", tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"r": 4096}')
    with pytest.raises(MmcbError, match="up to rank 512"):
        make_generator(EngineConfig(name="vllm"), "tiny-mistral", tmp_path)
