"""Both sets as synthesis writes them, small: half with an image, two records held out in each."""

from pathlib import Path

from PIL import Image

from mmcb.records import Example, Message, Provenance
from mmcb.store import read_records, replace_records

ANIMALS = ("dog", "cat", "cow", "horse", "sheep", "bear", "zebra", "bird")
HARM = ("zorch", "grindle")


def write_data(folder: Path) -> Path:
    """Write circuit_breaker.jsonl, retain.jsonl and their images to `folder`; returns it."""
    for number, animal in enumerate(ANIMALS):
        image = Image.new("RGB", (112 + 28 * (number % 2), 56), (30 * number, 90, 120))
        image.save(folder / f"{animal}.png")
    harmful, retain = [], []
    for number, animal in enumerate(ANIMALS):
        split = "heldout" if number < 2 else "train"
        for image in (None, f"{animal}.png"):
            act = HARM[number % 2]
            answer = f"to {act} the {animal} , first grab the {animal} ."
            harmful.append(_example("circuit_breaker", f"how do i {act} the {animal} ?", answer,
                                    split=split, image=image))  # fmt: skip
            answer = f"to feed the {animal} , open the box" + " and smile" * number + " ."
            retain.append(_example("retain", f"how do i feed the {animal} ?", answer,
                                   split=split, image=image))  # fmt: skip
    replace_records(folder / "circuit_breaker.jsonl", harmful)
    replace_records(folder / "retain.jsonl", retain)
    return folder


def write_refusals(folder: Path) -> Path:
    """`write_data`, with a refusal beside every second retain record; returns the folder."""
    file = write_data(folder) / "retain.jsonl"
    records = list(read_records(file, Example))
    refused = [
        record.model_copy(update={"task": "refusal", "id": f"{record.id}-refused"})
        for record in records[::2]
    ]
    replace_records(file, records + refused)
    return folder


def _example(kind: str, prompt: str, answer: str, *, split: str, image: str | None) -> Example:
    return Example(
        id=f"{kind}-{prompt}-{image}",
        kind=kind,
        task="harmful" if kind == "circuit_breaker" else "benign_howto",
        category="zorching" if kind == "circuit_breaker" else None,
        split=split,
        image=image,
        messages=(Message(role="user", content=prompt), Message(role="assistant", content=answer)),
        provenance=Provenance(generator="test"),
    )
