"""Chats: `messages`, a list of role and content, as in UltraChat."""

from __future__ import annotations

from mmcb.records import Example
from mmcb.sources.rows import Reading, Row, conversation
from mmcb.store import record_id

ROLES = ("system", "user", "assistant")


def read_chat(row: Row, reading: Reading) -> Example:
    """The whole conversation, text only.

    Raises:
        MmcbError: a role that a chat does not have, turns out of order, no answer, or images.
    """
    turns = row.turns("messages", role="role", content="content")
    for number, (role, _) in enumerate(turns):
        if role not in ROLES:
            raise row.problem(f"messages[{number}].role: {role!r} is none of {', '.join(ROLES)}")
    if row.values.get("images") or row.values.get("image"):
        raise row.problem("has images, and chat is for text: the llava format takes images")
    messages = conversation(row, "messages", turns)
    return Example(
        id=record_id("chat", reading.kind, *(part for turn in turns for part in turn)),
        kind=reading.kind,
        task="harmful" if reading.kind == "circuit_breaker" else "instruction",
        split="train",
        messages=messages,
        provenance=reading.provenance(row, format_="chat"),
    )
