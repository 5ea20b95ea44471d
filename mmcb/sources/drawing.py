"""What becomes of a source's examples: held out, drawn, their request emptied; all by the seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from mmcb.records import Example, Message
from mmcb.store import record_id


def is_held_out(example: Example, *, seed: int, fraction: float) -> bool:
    """Whether an example is kept out of training, to validate on.

    Decided by its image, or else its first request: a request's harmful answer and its refusal,
    and all that is asked about a picture, are on the same side.
    """
    if example.image is not None:
        about = PurePosixPath(example.image).name
    else:
        about = next(m.content for m in example.messages if m.role == "user")
    return int(record_id("heldout", seed, about), 16) < fraction * 16**16


def draw(examples: Iterable[Example], *, count: int | None, seed: int) -> list[Example]:
    """Exactly `count` examples, each used as often as every other, or once more.

    Which ones is decided by a hash of seed and id, not by their order; no more than `count` are
    held in memory. Returned in the order they came in.

    Args:
        examples: what there is; read once.
        count: how many to draw; None for all of them, once.
        seed: seed of the choice.
    """
    if count is None:
        return list(examples)
    ranked = heapq.nsmallest(
        count, enumerate(examples), key=lambda pair: (record_id("draw", seed, pair[1].id), pair[0])
    )
    if not ranked:
        return []
    whole, rest = divmod(count, len(ranked))
    return [example for _, example in sorted(ranked * whole + ranked[:rest], key=lambda p: p[0])]


def empty_requests(
    examples: Sequence[Example], *, fraction: float, seed: int
) -> tuple[list[Example], int]:
    """Empty the request of a share of examples, to the nearest whole number; return how many.

    Source: upstream's `src/cb_train_dataset.py` empties the request of half of the examples for
    Llama-3 (by a coin for each), so that the answer alone is rerouted and retained too.
    """
    number = round(fraction * len(examples))
    chosen = set(random.Random(f"{seed}/no request").sample(range(len(examples)), number))
    return [without_request(e) if i in chosen else e for i, e in enumerate(examples)], number


def without_request(example: Example) -> Example:
    """An answer to nothing: the first answer stays, its request is empty; template tags stay."""
    first = next(i for i, m in enumerate(example.messages) if m.role == "assistant")
    system = [message for message in example.messages[:first] if message.role == "system"]
    messages = (*system, Message(role="user", content=""), example.messages[first])
    return example.model_copy(
        update={"id": record_id("no request", example.id), "messages": messages}
    )
