"""From messages to token ids: the model's own chat template, image tokens, completion spans.

No template is written here. Text from data never turns into a special token: `<image>` in a
caption is five characters and a word, not a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from mmcb.errors import MmcbError
from mmcb.records import Message


class ChatModel(Protocol):
    """What is asked of a model here: how it reads and writes text. Its weights need not be loaded.

    A `LoadedModel` is one, a `ModelReader` as well.
    """

    @property
    def name(self) -> str:
        """What the user called it."""

    @property
    def config(self) -> Any:
        """Its transformers config."""

    @property
    def processor(self) -> Any:
        """For text and images; for an LLM the tokenizer again."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""

    @property
    def is_vlm(self) -> bool:
        """Whether it takes images."""


class Encoded(NamedTuple):
    """One example as token ids, not padded. `T = len(input_ids)`."""

    input_ids: list[int]
    """Image tokens expanded; a beginning-of-sequence token where the model wants one."""
    completion_start: int
    """Index of the first token of the answer (or prefill); T when there is none yet."""
    after_image_start: int
    """Index of the first token after the image; 0 without an image."""


def render(
    loaded: ChatModel, messages: Sequence[Message], *, has_image: bool, prefill: str = ""
) -> str:
    """The conversation as the model's chat template writes it, image tokens not yet expanded.

    When the last message is the assistant's, the answer stands at the end followed by the
    end-of-sequence token. Otherwise the text ends where the model is to go on: after `prefill`
    if there is one, else after the template's generation prompt.

    Raises:
        MmcbError: the template does not accept these messages, or `prefill` with an answer.
    """
    prompt, completion = _render_parts(loaded, messages, has_image=has_image, prefill=prefill)
    return prompt + completion


def encode(
    loaded: ChatModel,
    messages: Sequence[Message],
    *,
    image_size: tuple[int, int] | None,
    prefill: str = "",
) -> Encoded:
    """Token ids of `render`'s text, with the image's tokens in place.

    The answer's span is found by tokenising the prompt, then prompt and answer together: tokens
    are never glued from two separate tokenisations.

    Args:
        loaded: the model whose template, tokenizer and processor count.
        messages: the conversation; an assistant's message at the end makes a full example.
        image_size: (height, width) in pixels of the image before the first user text, or None.
        prefill: the beginning of an answer, for a conversation that ends with the user.

    Raises:
        MmcbError: as `render`; an image for a model that takes none.
    """
    prompt, completion = _render_parts(
        loaded, messages, has_image=image_size is not None, prefill=prefill
    )
    ids = _tokenize(loaded.tokenizer, prompt + completion)
    start = len(ids)
    if completion:
        start = _common_prefix(_tokenize(loaded.tokenizer, prompt), ids)
    if image_size is None:
        return Encoded(ids, start, 0)
    image_id = image_token_id(loaded)
    if ids.count(image_id) != 1:
        raise MmcbError(
            f"the chat template of {loaded.name} wrote {ids.count(image_id)} image tokens, not 1",
            hint="use a model whose template places images",
        )
    position = ids.index(image_id)
    count = num_image_tokens(loaded, image_size)
    expanded = ids[:position] + [image_id] * count + ids[position + 1 :]
    return Encoded(expanded, start + count - 1, position + count)


def encode_text(loaded: ChatModel, text: str) -> Encoded:
    """Token ids of a text as it stands, without the template; special tokens are neutralised."""
    ids = _tokenize(loaded.tokenizer, neutralize(loaded, text))
    return Encoded(ids, len(ids), 0)


def encode_for_verdict(loaded: ChatModel, messages: Sequence[Message]) -> Encoded:
    """Token ids of a conversation with its answer, as a guard model's template asks about it.

    Raises:
        MmcbError: the template does not accept these messages.
    """
    text = _apply_template(loaded, messages, has_image=False, open_turn=True)
    ids = _tokenize(loaded.tokenizer, text)
    return Encoded(ids, len(ids), 0)


def image_token_id(loaded: ChatModel) -> int:
    """The id that stands for one image feature.

    Raises:
        MmcbError: the model takes no images.
    """
    value = getattr(loaded.config, "image_token_id", None)
    if value is None:
        raise MmcbError(
            f"{loaded.name} takes no images",
            hint="use a vision-language model, such as tiny-llava-next",
        )
    return int(value)


def num_image_tokens(loaded: ChatModel, image_size: tuple[int, int]) -> int:
    """How many tokens an image of (height, width) becomes, as the processor counts them."""
    data = loaded.processor._get_num_multimodal_tokens(image_sizes=[list(image_size)])
    return int(data["num_image_tokens"][0])


def neutralize(loaded: ChatModel, text: str) -> str:
    """`text` with every special token of the model broken by a space, `<image>` -> `< image>`."""
    # `<image>` is LLaVA's own word for it, so a text-only model does not see it either.
    image_token = getattr(loaded.processor, "image_token", None) or "<image>"
    for token in (*_special_tokens(loaded.tokenizer), image_token, "<image>"):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


@lru_cache(maxsize=16)
def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """All that the tokenizer reads as one token whatever stands around it, longest first.

    Llama 3's `all_special_tokens` are two; that `<|eot_id|>` is one, only its added tokens say.
    """
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = {*tokenizer.all_special_tokens, *added}
    return tuple(sorted((token for token in found if len(token) > 1), key=lambda t: (-len(t), t)))


def _render_parts(
    loaded: ChatModel, messages: Sequence[Message], *, has_image: bool, prefill: str
) -> tuple[str, str]:
    """The prompt up to where the assistant begins, and what the assistant says (may be empty)."""
    if not messages:
        raise MmcbError("a conversation needs at least one message", hint="check the records")
    answered = messages[-1].role == "assistant"
    if answered and prefill:
        raise MmcbError("a conversation that has its answer takes no prefill", hint="drop one")
    before = list(messages[:-1] if answered else messages)
    answer = messages[-1].content if answered else prefill
    prompt = _apply_template(loaded, before, has_image=has_image, open_turn=True)
    if not answered and not prefill:
        return prompt, ""
    answer = neutralize(loaded, answer)
    eos = (loaded.tokenizer.eos_token or "") if answered else ""
    return prompt, _glue(loaded, before, prompt, has_image=has_image) + answer + eos


def _glue(loaded: ChatModel, before: Sequence[Message], prompt: str, *, has_image: bool) -> str:
    """What the template puts between the generation prompt and an answer, e.g. one space.

    The answer's own text is not taken from the template: LLaVA-1.6-Mistral's ends turns with a
    misspelt end-of-sequence token.
    """
    marker = "mmcb-answer"
    turn = Message(role="assistant", content=marker)
    full = _apply_template(loaded, [*before, turn], has_image=has_image, open_turn=False)
    at = full.rfind(marker)
    if at < len(prompt) or not full.startswith(prompt):
        return ""
    return full[len(prompt) : at]


def _apply_template(
    loaded: ChatModel, messages: Sequence[Message], *, has_image: bool, open_turn: bool
) -> str:
    from jinja2 import TemplateError

    if getattr(loaded.processor, "chat_template", None) is None:
        raise MmcbError(
            f"{loaded.name} has no chat template: it was not trained to converse",
            hint="use the variant that was (-Instruct, -it, -chat)",
        )
    last_error: Exception | None = None
    # Mistral's templates refuse a system message; then it goes before the first user text.
    for candidate in (list(messages), _fold_system(messages)):
        turns = _turns(loaded, candidate, has_image=has_image)
        try:
            text = loaded.processor.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=open_turn
            )
        except (TemplateError, ValueError) as error:
            last_error = error
            continue
        return str(text)
    raise MmcbError(
        f"the chat template of {loaded.name} does not take this conversation: {last_error}",
        hint="alternate user and assistant messages, beginning with the user's",
    )


def _turns(
    loaded: ChatModel, messages: Sequence[Message], *, has_image: bool
) -> list[dict[str, Any]]:
    """Messages in the template's own shape; the image goes into the first user message."""
    if has_image and not loaded.is_vlm:
        image_token_id(loaded)
    turns: list[dict[str, Any]] = []
    pending = has_image
    for message in messages:
        text = neutralize(loaded, message.content)
        if not loaded.is_vlm:
            turns.append({"role": message.role, "content": text})
            continue
        content: list[dict[str, str]] = [{"type": "text", "text": text}]
        if pending and message.role == "user":
            content.insert(0, {"type": "image"})
            pending = False
        turns.append({"role": message.role, "content": content})
    return turns


def _fold_system(messages: Sequence[Message]) -> list[Message]:
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    rest = [message for message in messages if message.role != "system"]
    if system and rest:
        first = rest[0]
        rest[0] = Message(role=first.role, content=f"{system}\n\n{first.content}")
    return rest


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    """Token ids, with one beginning-of-sequence token if the tokenizer adds them."""
    ids = [int(token) for token in tokenizer(text, add_special_tokens=False).input_ids]
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and bos in tokenizer("").input_ids
    # Mistral's template writes `<s>` itself, LLaVA's leaves it to the tokenizer.
    return [int(bos), *ids] if adds_bos and ids[:1] != [bos] else ids


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
