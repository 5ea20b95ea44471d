"""LLaVA-Instruct: id, image, and conversations of human and gpt with `<image>` in the text.

Source: Liu et al. 2023 (arXiv 2304.08485), LLaVA-Instruct-150K; llava_v1_5_mix665k also has
records without an image.
"""

from __future__ import annotations

from mmcb.records import Example
from mmcb.sources.images import image_path
from mmcb.sources.rows import Reading, Row, conversation
from mmcb.store import record_id

ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
IMAGE_TOKEN = "<image>"


def read_llava(row: Row, reading: Reading) -> Example:
    """The whole conversation with its image, which stands in front of the first question.

    Raises:
        MmcbError: a speaker that is none, turns out of order, `<image>` where none can stand.
    """
    name = row.values.get("image")
    turns: list[tuple[str, str]] = []
    for number, (speaker, text) in enumerate(
        row.turns("conversations", role="from", content="value")
    ):
        place = f"conversations[{number}]"
        if speaker not in ROLES:
            raise row.problem(f"{place}.from: {speaker!r} is none of {', '.join(ROLES)}")
        role = ROLES[speaker]
        if role == "user" and IMAGE_TOKEN in text:
            _check_token(row, place, text, first=not any(r == "user" for r, _ in turns))
            text = text.replace(IMAGE_TOKEN, "").strip()
        turns.append((role, text))
    messages = conversation(row, "conversations", turns)
    harmless = "instruction" if name is None else "question"
    parts = (part for turn in turns for part in turn)
    return Example.model_validate(
        {
            "id": record_id("llava", reading.kind, str(name), *parts),
            "kind": reading.kind,
            "task": "harmful" if reading.kind == "circuit_breaker" else harmless,
            "split": "train",
            "image": None if name is None else image_path(row, name, reading),
            "messages": messages,
            "provenance": reading.provenance(row, format_="llava"),
        }
    )


def _check_token(row: Row, place: str, text: str, *, first: bool) -> None:
    if row.values.get("image") is None:
        raise row.problem(f"{place}: says {IMAGE_TOKEN}, and the record names no image")
    if not first or text.count(IMAGE_TOKEN) > 1:
        raise row.problem(f"{place}: one {IMAGE_TOKEN} is taken, in the first question")
