from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmcb.errors import MmcbError
from mmcb.generation import make_generator
from mmcb.generation.config import EngineConfig
from mmcb.generation.protocol import Completion, Request, Sampling
from mmcb.generation.transformers_engine import SeededNoise, TransformersGenerator
from mmcb.models.chat import encode
from mmcb.models.loading import LoadedModel
from mmcb.records import Message

QUESTIONS = (
    "what is in the picture ?",
    "how do i feed the dog on the left of the red cup ?",
    "zorch",
    "sorry , what ?",
)


def ask(name: str, text: str, *, image: Path | None = None, prefill: str = "") -> Request:
    return Request(name, (Message(role="user", content=text),), image, prefill)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    folder = tmp_path_factory.mktemp("images")
    made = []
    for index, (height, width) in enumerate([(56, 112), (100, 60), (112, 112)]):
        path = folder / f"{index}.png"
        values = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
        made.append(ask(f"image-{index}", QUESTIONS[index], image=path, prefill="to " * index))
    return made + [ask(f"text-{index}", text) for index, text in enumerate(QUESTIONS)]


def answers(
    generator: TransformersGenerator, requests: list[Request], sampling: Sampling
) -> dict[str, Completion]:
    batches = list(generator.generate(requests, sampling))
    done = [completion for batch in batches for completion in batch]
    assert Counter(completion.id for completion in done) == Counter(r.id for r in requests)
    return {completion.id: completion for completion in done}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_does_not_depend_on_its_batch(
    vlm: LoadedModel, requests: list[Request], temperature: float
) -> None:
    generator = TransformersGenerator(vlm)
    settings = {"max_new_tokens": 12, "temperature": temperature, "top_p": 0.9, "seed": 3}
    together = answers(generator, requests, Sampling(batch_size=32, **settings))
    assert together == answers(generator, requests, Sampling(batch_size=1, **settings))
    assert together == answers(generator, requests[::-1], Sampling(batch_size=3, **settings))
    assert len({completion.text for completion in together.values()}) > 3


def test_greedy_is_the_models_own_generate(vlm: LoadedModel, requests: list[Request]) -> None:
    request = requests[0]
    assert request.image is not None
    text = "[INST] <image>\nwhat is in the picture ? [/INST]"
    inputs = vlm.processor(images=Image.open(request.image), text=text, return_tensors="pt")
    ids = vlm.model.generate(**inputs, max_new_tokens=10, do_sample=False)
    expected = vlm.tokenizer.decode(
        ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    mine = answers(TransformersGenerator(vlm), [request], Sampling(max_new_tokens=10))
    assert mine[request.id].text == expected.lstrip()


def test_seeds_and_ids_make_the_difference(llm: LoadedModel) -> None:
    generator = TransformersGenerator(llm)
    same = [ask("a", "zorch"), ask("b", "zorch")]
    sampling = Sampling(max_new_tokens=10, temperature=1.0)
    first = answers(generator, same, sampling)
    assert first["a"].text != first["b"].text
    other = answers(generator, same, sampling.model_copy(update={"seed": 1}))
    assert other["a"].text != first["a"].text
    before = torch.get_rng_state()
    answers(generator, same, sampling)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_samples_the_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    ids = [str(index) for index in range(4000)]
    noise = SeededNoise(ids, Sampling(temperature=2.0))
    drawn = noise(torch.zeros(4000, 1), logits.expand(4000, 4)).argmax(dim=-1)
    share = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(share, (logits[0] / 2).softmax(dim=-1), atol=0.03)
    nucleus = SeededNoise(ids, Sampling(temperature=2.0, top_p=0.5))
    drawn = nucleus(torch.zeros(4000, 1), logits.expand(4000, 4)).argmax(dim=-1)
    assert set(drawn.tolist()) == {0, 1}


def test_the_end_stops_and_the_limit_cuts(
    llm: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = TransformersGenerator(llm)
    request = ask("a", "how do i feed the dog ?")
    cut = answers(generator, [request], Sampling(max_new_tokens=8))["a"]
    assert (cut.finish_reason, cut.num_tokens) == ("length", 8)
    ids = llm.tokenizer(cut.text, add_special_tokens=False).input_ids
    # Let a token that the model does write be the end.
    monkeypatch.setattr(generator, "_end_ids", lambda: [ids[-1]])
    stopped = answers(generator, [request], Sampling(max_new_tokens=8))["a"]
    assert stopped.finish_reason == "stop"
    assert stopped.num_tokens < 8
    assert cut.text.startswith(stopped.text)


def test_the_prefill_is_not_repeated(llm: LoadedModel) -> None:
    generator = TransformersGenerator(llm)
    sampling = Sampling(max_new_tokens=12)
    whole = answers(generator, [ask("a", "zorch")], sampling)["a"].text
    prompt = encode(llm, ask("a", "zorch").messages, image_size=None)
    # Begin the answer with its own first words: the rest must follow.
    head = whole[: len(whole) // 3]
    begun = encode(llm, ask("a", "zorch").messages, image_size=None, prefill=head)
    assert begun.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    rest = answers(generator, [ask("a", "zorch", prefill=head)], sampling)["a"].text
    assert not rest.startswith(head)


def test_bad_requests_are_answered_and_the_rest_goes_on(
    vlm: LoadedModel, requests: list[Request], tmp_path: Path
) -> None:
    (tmp_path / "empty.png").touch()
    cut = tmp_path / "cut.png"
    assert requests[2].image is not None
    cut.write_bytes(requests[2].image.read_bytes()[:-4000])
    mixed = [
        ask("empty", "what ?", image=tmp_path / "empty.png"),
        ask("cut", "what ?", image=cut),
        ask("long", "dog " * 3000),
        *requests[:2],
    ]
    done = answers(TransformersGenerator(vlm), mixed, Sampling(max_new_tokens=4))
    for name in ("empty", "cut", "long"):
        assert done[name] == Completion(name, "", "error", 0)
    assert done["image-0"].finish_reason == "length"


def test_images_for_a_text_model_are_the_users_error(
    llm: LoadedModel, requests: list[Request]
) -> None:
    with pytest.raises(MmcbError, match="no images"):
        list(TransformersGenerator(llm).generate(requests, Sampling()))


def test_out_of_memory_halves_the_batch(
    llm: LoadedModel, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = TransformersGenerator(llm)
    run, sizes = generator._run, []

    def limited(jobs: list[object], sampling: Sampling) -> list[Completion]:
        sizes.append(len(jobs))
        if len(jobs) > 1:
            raise torch.OutOfMemoryError
        return run(jobs, sampling)

    monkeypatch.setattr(generator, "_run", limited)
    answers(generator, requests[3:], Sampling(max_new_tokens=2))
    assert sizes == [4, 2, 1, 1, 1, 1]


def test_the_checkpoints_own_defaults_do_not_count(
    llm: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = TransformersGenerator(llm)
    request = ask("a", "how do i feed the dog ?")
    plain = answers(generator, [request], Sampling(max_new_tokens=10))
    monkeypatch.setattr(llm.model.generation_config, "repetition_penalty", 5.0)
    monkeypatch.setattr(llm.model.generation_config, "do_sample", True)
    monkeypatch.setattr(llm.model.generation_config, "temperature", 9.0)
    assert answers(generator, [request], Sampling(max_new_tokens=10)) == plain


def test_make_generator(llm_folder: Path) -> None:
    generator = make_generator(EngineConfig(device="cpu", dtype="bfloat16"), str(llm_folder))
    assert isinstance(generator, TransformersGenerator)
    assert generator.loaded.dtype == torch.bfloat16
    assert generator.name == str(llm_folder)
    assert generator.revision is not None
    with pytest.raises(ValueError, match="transformers"):
        EngineConfig(name="steam")
