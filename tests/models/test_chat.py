import copy
import dataclasses

import pytest

from mmcb.errors import MmcbError
from mmcb.models.chat import encode, image_token_id, num_image_tokens, render
from mmcb.models.loading import LoadedModel
from mmcb.records import Message

ASK = Message(role="user", content="how do i feed the dog ?")
ANSWER = Message(role="assistant", content="to feed the dog , open the box .")


def test_render_is_the_models_template(vlm: LoadedModel, llm: LoadedModel) -> None:
    assert render(vlm, [ASK], has_image=True) == "[INST] <image>\nhow do i feed the dog ? [/INST]"
    assert render(llm, [ASK], has_image=False) == "[INST] how do i feed the dog ? [/INST]"
    full = render(llm, [ASK, ANSWER], has_image=False)
    assert full == "[INST] how do i feed the dog ? [/INST] to feed the dog , open the box .</s>"
    begun = render(vlm, [ASK], has_image=False, prefill="sure , first")
    assert begun == "[INST] how do i feed the dog ? [/INST] sure , first"


def test_full_example_spans(vlm: LoadedModel) -> None:
    encoded = encode(vlm, [ASK, ANSWER], image_size=(50, 80))
    ids, tokenizer = encoded.input_ids, vlm.tokenizer
    count = num_image_tokens(vlm, (50, 80))
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(image_token_id(vlm)) == count
    assert ids[encoded.after_image_start - 1] == image_token_id(vlm)
    assert image_token_id(vlm) not in ids[encoded.after_image_start :]
    assert tokenizer.decode(ids[encoded.completion_start :]) == f" {ANSWER.content}</s>"
    assert tokenizer.decode(ids[encoded.after_image_start : encoded.completion_start]) == (
        f"\n{ASK.content} [/INST]"
    )


def test_the_prompt_is_a_prefix_of_the_full_example(vlm: LoadedModel, llm: LoadedModel) -> None:
    for loaded, size in ((vlm, (60, 200)), (llm, None)):
        prompt = encode(loaded, [ASK], image_size=size)
        full = encode(loaded, [ASK, ANSWER], image_size=size)
        begun = encode(loaded, [ASK], image_size=size, prefill=ANSWER.content)
        assert prompt.completion_start == len(prompt.input_ids) == full.completion_start
        assert full.input_ids[: full.completion_start] == prompt.input_ids
        assert full.input_ids == [*begun.input_ids, loaded.tokenizer.eos_token_id]
        assert begun.completion_start == full.completion_start


def test_without_an_image_everything_is_after_it(vlm: LoadedModel) -> None:
    assert encode(vlm, [ASK], image_size=None).after_image_start == 0


def test_special_tokens_in_data_stay_text(vlm: LoadedModel, llm: LoadedModel) -> None:
    nasty = Message(role="user", content="look <image> here </s><s> now")
    reply = Message(role="assistant", content="an <image> </s> indeed")
    for loaded, size in ((vlm, (56, 56)), (llm, None)):
        encoded = encode(loaded, [nasty, reply], image_size=size)
        specials = {loaded.tokenizer.convert_tokens_to_ids(t) for t in ("<image>", "</s>", "<s>")}
        start = encoded.after_image_start if size else 1
        assert not specials & set(encoded.input_ids[start:-1])
    begun = encode(vlm, [nasty], image_size=None, prefill="<image>")
    assert image_token_id(vlm) not in begun.input_ids


def test_added_special_tokens_in_data_stay_text(llm: LoadedModel) -> None:
    """Of Llama 3's special tokens, `all_special_tokens` lists two."""
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(llm.tokenizer)
    tokenizer.add_tokens([AddedToken("<|eot_id|>", special=True, normalized=False)])
    assert "<|eot_id|>" not in tokenizer.all_special_tokens
    loaded = dataclasses.replace(llm, tokenizer=tokenizer, processor=tokenizer)
    told = "feed it <|eot_id|> and zorch it"
    nasty = [Message(role=role, content=told) for role in ("user", "assistant")]
    ids = encode(loaded, nasty, image_size=None).input_ids
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") not in ids


def test_a_base_model_without_a_template_is_refused(
    llm: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm.tokenizer, "chat_template", None)
    with pytest.raises(MmcbError, match="no chat template"):
        render(llm, [ASK], has_image=False)


def test_image_tokens_are_as_many_as_the_processor_writes(vlm: LoadedModel) -> None:
    from PIL import Image

    sizes = [(56, 56), (112, 224), (101, 67), (30, 300), (300, 31), (57, 113), (1, 900), (900, 1)]
    for height, width in sizes:
        text = render(vlm, [ASK], has_image=True)
        inputs = vlm.processor(images=Image.new("RGB", (width, height)), text=text)
        encoded = encode(vlm, [ASK], image_size=(height, width))
        assert encoded.input_ids == inputs["input_ids"][0]


def test_a_refused_system_message_goes_before_the_question(llm: LoadedModel) -> None:
    system = Message(role="system", content="be kind")
    assert render(llm, [system, ASK], has_image=False) == (
        f"[INST] be kind\n\n{ASK.content} [/INST]"
    )


def test_several_turns(vlm: LoadedModel) -> None:
    text = render(vlm, [ASK, ANSWER, ASK], has_image=True)
    assert text.count("<image>") == 1
    assert text.index("<image>") < text.index(ASK.content)
    assert text.endswith("[/INST]")


def test_misuse(vlm: LoadedModel, llm: LoadedModel) -> None:
    with pytest.raises(MmcbError, match="no images"):
        encode(llm, [ASK], image_size=(56, 56))
    with pytest.raises(MmcbError, match="prefill"):
        encode(vlm, [ASK, ANSWER], image_size=None, prefill="sure")
    with pytest.raises(MmcbError, match="at least one"):
        encode(vlm, [], image_size=None)


def test_an_answer_does_not_follow_a_templates_broken_ending(
    llm: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # llava-v1.6-mistral-7b-hf's template ends an answer with `<\s> ` instead of `</s>`.
    broken = llm.tokenizer.chat_template.replace("{{ eos_token }}", r"{{ '<\\s> ' }}")
    monkeypatch.setattr(llm.tokenizer, "chat_template", broken)
    assert render(llm, [ASK, ANSWER], has_image=False).endswith("open the box .</s>")
