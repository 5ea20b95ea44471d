"""Records of real lengths: public instruction, chat and XSTest texts, and COCO photographs.

They stand in for the sets of the published runs, of which only the lengths matter here. One-line
requests with paragraph answers are the circuit-breaker set; chats and short answers to XSTest's
prompts are the retain set, in upstream's proportions.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmcb.errors import MmcbError
from mmcb.records import Example, Message, Provenance

XSTEST_CHARACTERS = 764
"""Mean length of the XSTest completions that upstream trains on."""
CHAT_SHARE = 0.46
"""Share of chats in upstream's retain set (Mistral)."""

Turns = list[tuple[str, str]]


def read_examples(data: Path, *, with_images: bool, seed: int = 0) -> list[tuple[Path, Example]]:
    """Circuit-breaker and retain examples, as `encode_examples` takes them.

    Args:
        data: the folder of public data.
        with_images: half of both sets is about a photograph.
        seed: which texts go together.

    Raises:
        MmcbError: the folder lacks one of the sets.
    """
    rng = random.Random(seed)
    instructions = [
        [("user", f"{r['instruction']}\n{r['input']}".strip()), ("assistant", r["output"])]
        for r in _json(data / "llamafactory_demo/alpaca_en_demo.json")
        if r["output"].strip()
    ]
    answers = [turns[1][1] for turns in instructions]
    chats = list(_chats(data / "llamafactory_demo/v1_sft_demo.jsonl"))
    prompts = list(_xstest(data / "xstest/xstest_prompts.csv"))
    retain: list[Turns] = []
    for _ in range(len(instructions)):
        if rng.random() < CHAT_SHARE:
            retain.append(rng.choice(chats))
        else:
            answer = rng.choice(answers)[: 2 * XSTEST_CHARACTERS]
            retain.append([("user", rng.choice(prompts)), ("assistant", answer)])
    photographs = sorted((data / "coco").glob("*2017/*.jpg")) if with_images else []
    pairs = [*_examples("circuit_breaker", instructions), *_examples("retain", retain)]
    if not photographs:
        return [(data / "records.jsonl", example) for example in pairs]
    return [
        (data / "records.jsonl", _with_image(example, index, photographs, data))
        for index, example in enumerate(pairs)
    ]


def texts(pairs: Sequence[tuple[Path, Example]]) -> Iterator[str]:
    """All that is said, to train a tokenizer on."""
    for _, example in pairs:
        for message in example.messages:
            yield message.content


def _examples(kind: Any, conversations: Sequence[Turns]) -> Iterator[Example]:
    for index, turns in enumerate(conversations):
        yield Example(
            id=f"{kind}-{index}",
            kind=kind,
            task="harmful" if kind == "circuit_breaker" else "instruction",
            category="benchmark" if kind == "circuit_breaker" else None,
            split="train",
            image=None,
            messages=tuple(Message(role=role, content=text) for role, text in turns),
            provenance=Provenance(generator="public data"),
        )


def _with_image(example: Example, index: int, photographs: Sequence[Path], data: Path) -> Example:
    if index % 2 or len(example.messages) > 2:
        return example
    photograph = photographs[(index // 2) % len(photographs)]
    return example.model_copy(update={"image": photograph.relative_to(data).as_posix()})


def _json(path: Path) -> Any:
    return json.loads(_text(path))


def _chats(path: Path) -> Iterator[Turns]:
    for line in _text(path).splitlines():
        turns = [
            (message["role"], "".join(str(part["value"]) for part in message["content"]))
            for message in json.loads(line)["messages"]
            if message["role"] in ("user", "assistant")
        ]
        if turns and turns[-1][0] == "assistant" and all(text.strip() for _, text in turns):
            yield turns


def _xstest(path: Path) -> Iterator[str]:
    for row in csv.DictReader(_text(path).splitlines()):
        yield row["prompt"]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise MmcbError(
            f"cannot read {path}: {error.strerror}", hint="give --data the folder of public data"
        ) from error
