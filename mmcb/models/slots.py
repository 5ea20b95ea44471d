"""Where vectors or tokens can be put behind the words of a request, and what stands around them.

The place is found with a marker word at the end of the last user message, in one tokenisation of
the whole conversation: what stands before and after is exactly what the model reads without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mmcb.errors import MmcbError
from mmcb.models.chat import ChatModel, encode, neutralize, render
from mmcb.records import Message

_MARKER = " mmcb-slot"


class Slotted(NamedTuple):
    """A conversation around its slot, as token ids."""

    before: list[int]
    """Image tokens expanded; a beginning-of-sequence token where the model wants one."""
    after: list[int]
    """The rest of the user's turn, and what opens the answer."""
    target: list[int]
    """The prefill."""
    after_image_start: int
    """Index of the first token after the image; 0 without an image."""


def encode_slotted(
    loaded: ChatModel,
    messages: Sequence[Message],
    *,
    image_size: tuple[int, int] | None,
    prefill: str = "",
) -> Slotted:
    """Token ids before and after a slot at the end of the last user message.

    Args:
        loaded: the model whose template and tokenizer count.
        messages: the conversation; the last message is the user's.
        image_size: (height, width) of the image before the first user text, or None.
        prefill: the beginning of an answer.

    Raises:
        MmcbError: as `mmcb.models.chat.encode`; the template does not keep the message's end.
    """
    marked = _with_text(messages, _MARKER)
    text = render(loaded, marked, has_image=image_size is not None, prefill=prefill)
    start = text.rfind(_MARKER)
    if start < 0:
        raise MmcbError(
            f"the chat template of {loaded.name} does not keep the end of a message",
            hint="use a model whose template writes messages as they are",
        )
    encoded = encode(loaded, marked, image_size=image_size, prefill=prefill)
    offsets = loaded.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True
    ).offset_mapping
    ends = [end for _, end in offsets]
    # Counted from the end, where neither an expanded image nor a first special token stands.
    num_from = sum(end > start for end in ends)
    num_after = sum(begin >= start + len(_MARKER) for begin, _ in offsets)
    ids = encoded.input_ids
    after = len(ids) - num_after
    return Slotted(
        ids[: len(ids) - num_from],
        ids[after : encoded.completion_start],
        ids[encoded.completion_start :],
        encoded.after_image_start,
    )


@dataclass(frozen=True, slots=True)
class SlotText:
    """Tells which tokens in the slot come back when the conversation is sent as text.

    Args:
        loaded: the model whose tokenizer counts.
        text_before: the conversation up to the slot, as the template writes it.
        text_after: what follows, prefill included.
        before: tokens before the slot, the image not expanded, no beginning of sequence added.
        after: tokens after it.
    """

    loaded: ChatModel
    text_before: str
    text_after: str
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(
        cls, loaded: ChatModel, messages: Sequence[Message], *, has_image: bool, prefill: str
    ) -> SlotText:
        """The slot at the end of the last user message."""
        text = render(loaded, _with_text(messages, _MARKER), has_image=has_image, prefill=prefill)
        start = text.rfind(_MARKER)
        end = start + len(_MARKER)
        found = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = list(zip(found.input_ids, found.offset_mapping, strict=True))
        return cls(
            loaded,
            text[:start],
            text[end:],
            tuple(token for token, (_, stop) in pairs if stop <= start),
            tuple(token for token, (begin, _) in pairs if begin >= end),
        )

    def survives(self, candidates: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each candidate, written as text in its place, is read as the same tokens."""
        texts = [self.decode(ids) for ids in candidates]
        whole = [self.text_before + text + self.text_after for text in texts]
        read = self.loaded.tokenizer(whole, add_special_tokens=False).input_ids
        return [
            list(ids) == [*self.before, *candidate, *self.after]
            # Templates may strip a message's end, and special words are broken up on the way.
            and text == text.rstrip()
            and text == neutralize(self.loaded, text)
            for ids, candidate, text in zip(read, candidates, texts, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens in the slot."""
        return str(
            self.loaded.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


def _with_text(messages: Sequence[Message], text: str) -> list[Message]:
    last = messages[-1]
    return [*messages[:-1], Message(role=last.role, content=last.content + text)]
