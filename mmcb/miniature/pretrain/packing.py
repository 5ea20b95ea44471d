"""Many short conversations in one row, each blind to the others, all seeing the row's picture.

A picture's tokens stand once at the head of a row and every turn about it follows as a branch with
the positions it would have alone. A row of eight turns costs a third of eight rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mmcb.miniature.architecture import image_token_id
from mmcb.miniature.tasks import Turn

# Shapes: B rows, T tokens of a row.
IGNORED = -100
_PADDING = -1


class Row(NamedTuple):
    """One row before padding. Segment 0 is the shared prefix; branches count from 1."""

    input_ids: list[int]
    labels: list[int]
    positions: list[int]
    segments: list[int]


class PackedBatch(NamedTuple):
    """Rows padded to one length; `mask` says who may attend to whom."""

    input_ids: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B 1 T T"]


def picture_row(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn], *, num_image_tokens: int
) -> Row:
    """A row whose prefix is a picture and whose branches are turns about it."""
    head, tail = _split_template(tokenizer, with_image=True)
    prefix = [*_ids(tokenizer, head), *[image_token_id(tokenizer)] * num_image_tokens]
    row = Row(list(prefix), [IGNORED] * len(prefix), list(range(len(prefix))), [0] * len(prefix))
    for segment, turn in enumerate(turns, start=1):
        _append(row, tokenizer, tail, turn, segment=segment, start=len(prefix))
    return row


def text_row(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn]) -> Row:
    """A row of turns without a picture."""
    head, tail = _split_template(tokenizer, with_image=False)
    row = Row([], [], [], [])
    for segment, turn in enumerate(turns, start=1):
        _append(row, tokenizer, head + tail, turn, segment=segment, start=0)
    return row


def _split_template(tokenizer: PreTrainedTokenizerFast, *, with_image: bool) -> tuple[str, str]:
    """The chat template of one user turn, cut at the image; `{}` stands for the user's words."""
    content: list[dict[str, str]] = [{"type": "text", "text": "{}"}]
    if with_image:
        content.insert(0, {"type": "image"})
    message: dict[str, Any] = {"role": "user", "content": content}
    text = str(tokenizer.apply_chat_template([message], tokenize=False))
    head, _, tail = text.partition("<image>")
    return (head, tail) if with_image else ("", text)


def _append(
    row: Row, tokenizer: PreTrainedTokenizerFast, template: str, turn: Turn, *, segment: int,
    start: int,
) -> None:  # fmt: skip
    question = _ids(tokenizer, template.format(turn.prompt))
    given = _ids(tokenizer, f" {turn.response[: turn.given]}") if turn.given else []
    rest = turn.response[turn.given :] if turn.given else f" {turn.response}"
    answer = [*_ids(tokenizer, rest), tokenizer.eos_token_id]
    ids = [*question, *given, *answer]
    row.input_ids.extend(ids)
    row.labels.extend([IGNORED] * (len(question) + len(given)) + answer)
    row.positions.extend(range(start, start + len(ids)))
    row.segments.extend([segment] * len(ids))


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def collate(rows: Sequence[Row], *, pad_id: int) -> PackedBatch:
    """Pads the rows on the right and builds the mask: causal in a branch, prefix seen by all."""
    length = max(len(row.input_ids) for row in rows)

    def padded(values: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([v + [fill] * (length - len(v)) for v in values])

    segments_BT = padded([row.segments for row in rows], _PADDING)
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    prefix_BTT = (segments_BT == 0)[:, None, :]
    causal_TT = torch.ones(length, length, dtype=torch.bool).tril()
    return PackedBatch(
        padded([row.input_ids for row in rows], pad_id),
        padded([row.labels for row in rows], IGNORED),
        padded([row.positions for row in rows], 0),
        ((same_BTT | prefix_BTT) & causal_TT)[:, None],
    )
