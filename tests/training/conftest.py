"""A tiny random model of each kind and a data folder as synthesis writes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mmcb.models.loading import LoadedModel, load_model
from mmcb.records import Example, Message, Provenance
from mmcb.store import replace_records
from tests.tiny_models import make_tiny_llm, make_tiny_vlm

ANIMALS = ("dog", "cat", "cow", "horse", "sheep", "bear", "zebra", "bird")
HARM = ("zorch", "grindle")


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"llm": make_tiny_llm(folder / "llm"), "vlm": make_tiny_vlm(folder / "vlm")}


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sets, half of the examples with an image, two held-out records in each."""
    folder = tmp_path_factory.mktemp("data")
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


@pytest.fixture
def load(model_folders: dict[str, Path]) -> Callable[..., LoadedModel]:
    """Load a tiny model with the blocks of the test recipe."""

    def load_kind(kind: str, *, num_blocks: int | None = 4, dtype: str = "auto") -> LoadedModel:
        folder = str(model_folders[kind])
        return load_model(folder, num_blocks=num_blocks, device="cpu", dtype=dtype)

    return load_kind
