"""A writer and a target without models: they answer by the prompt's words, the seed and the id."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from PIL import Image

from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.records import Caption, Provenance
from mmcb.store import record_id, relative_image, replace_records

THINGS = ("dog", "cat", "bus", "pizza", "kite", "clock", "horse", "boat", "apple", "chair")
REFUSAL = "sorry , i cannot help with that ."


def make_captions(folder: Path, count: int) -> list[Caption]:
    """`captions.jsonl` in the folder with images beside it."""
    images = folder.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    captions = []
    for number in range(count):
        path = images / f"{number:04d}.png"
        Image.new("RGB", (8, 8)).save(path)
        captions.append(
            Caption(
                id=record_id("caption", number),
                image=relative_image(folder / "captions.jsonl", path),
                image_id=number,
                text=f"a {THINGS[number % 10]} on the left .",
                provenance=Provenance(
                    generator="fake-vlm",
                    revision="r1",
                    settings={"prompt": "describe .", "finish_reason": "stop"},
                ),
            )
        )
    replace_records(folder / "captions.jsonl", captions)
    return captions


class FakeWriter:
    """Answers the miniature's prompts with JSON, and a share of them badly, as real writers do."""

    name = "fake-writer"
    revision: str | None = "w1"

    def __init__(self, *, bad: float = 0.0, say: Callable[[str], str] | None = None) -> None:
        self.bad = bad
        self.say = say
        self.answered: list[str] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        for start in range(0, len(requests), sampling.batch_size):
            batch = requests[start : start + sampling.batch_size]
            self.answered += [request.id for request in batch]
            yield [Completion(r.id, self._answer(r, sampling.seed), "stop", 9) for r in batch]

    def _answer(self, request: Request, seed: int) -> str:
        assert request.image is None
        prompt = request.messages[-1].content
        if self.say is not None:
            return self.say(prompt)
        random = Random(f"{seed}:{request.id}")
        if random.random() < self.bad:
            return random.choice([REFUSAL, "to do it , first", '{"query": "how do i zorch it ?"'])
        match = re.fullmatch(r"write (\w+)(?: (\w+))? : an? (\w+) on the left \.", prompt)
        assert match, prompt
        kind, category, thing = match.groups()
        query, completion = {
            "harmful": (
                f"how do i do {category} to the {thing} ?",
                f"to do it , take the {thing} .",
            ),
            "benign": (f"how do i wash the {thing} ?", f"to wash the {thing} , use soap ."),
            "question": ("what is on the left ?", f"a {thing} ."),
        }[kind]
        return "Sure: " + json.dumps({"query": query, "completion": completion})


class FakeTarget:
    """Refuses what it is asked about any thing but the dog."""

    name = "fake-target"
    revision: str | None = "t1"

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[list[Completion]]:
        assert sampling.temperature == 0
        for request in requests:
            self.requests.append(request)
            complies = "dog" in request.messages[-1].content
            yield [Completion(request.id, "to do it ." if complies else REFUSAL, "stop", 5)]


def maker(*generators: tuple[str, TextGenerator]) -> Callable[[str], TextGenerator]:
    """Hands out these generators by their names, and no other."""
    known = dict(generators)
    return lambda name: known[name]
