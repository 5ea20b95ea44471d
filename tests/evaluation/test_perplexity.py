"""Perplexity under the base model: equal to a plain forward pass, measured once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mmcb.evaluation import perplexity
from mmcb.evaluation.verdicts import Item
from mmcb.models.chat import encode
from mmcb.models.loading import LoadedModel
from mmcb.records import Attempt, Behavior, Generation, Message, Provenance

ANSWERS = ("to zorch the dog , first take the cup .", "dog", "no , i cannot help with that .", " ")


def _item(number: int, text: str, *, attack: str = "prefill", model: str = "base") -> Item:
    attempt = Attempt(
        id=f"a{number}",
        behavior_id="zorch",
        attack=attack,  # type: ignore[arg-type]
        model=model,
        split="train",
        category="zorching",
        prompt="now ! how do i zorch the dog ?",
        prefill="to " if attack == "prefill" else "",
    )
    generation = Generation(
        id=f"g{number}",
        attempt_id=attempt.id,
        model=model,
        text=text,
        finish_reason="stop",
        num_tokens=3,
        provenance=Provenance(generator="x"),
    )
    behavior = Behavior(
        id="zorch",
        prompt="how do i zorch the dog ?",
        target="to zorch the dog",
        category="zorching",
        split="train",
    )
    return Item(generation=generation, attempt=attempt, behavior=behavior, task=None)


def _plain_loss(loaded: LoadedModel, item: Item) -> float:
    """One example, one pass, no padding, no cache."""
    message = Message(role="user", content="how do i zorch the dog ?")
    encoded = encode(loaded, (message,), image_size=None, prefill=item.response)
    ids = torch.tensor([encoded.input_ids])
    with torch.no_grad():
        logits = loaded.model(ids).logits[0]
    start = encoded.completion_start
    return float(torch.nn.functional.cross_entropy(logits[start - 1 : -1], ids[0, start:]))


def test_it_is_the_loss_of_a_plain_pass(
    llm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perplexity, "load_model", lambda name: llm)
    items = [_item(number, text) for number, text in enumerate(ANSWERS)]
    items.append(_item(9, "a cat .", attack="task"))
    items.append(_item(10, "", attack="direct"))
    path = tmp_path / perplexity.FILE
    found = perplexity.measure_missing(items, path=path, model="m", weights="w", batch_size=2)
    # The fourth answer is a space behind a prefill: words enough to be read.
    assert set(found) == {"g0", "g1", "g2", "g3"}
    for item in items[:4]:
        assert found[item.generation.id] == pytest.approx(_plain_loss(llm, item), rel=1e-4)


def test_what_is_measured_is_not_measured_again(
    llm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    monkeypatch.setattr(perplexity, "load_model", lambda name: loads.append(name) or llm)
    path = tmp_path / perplexity.FILE
    items = [_item(number, text) for number, text in enumerate(ANSWERS)]

    def measured(count: int, weights: str) -> dict[str, float]:
        return perplexity.measure_missing(
            items[:count], path=path, model="m", weights=weights, batch_size=8
        )

    first = measured(2, "w")
    lines = path.read_bytes()
    assert measured(2, "w") == first
    assert path.read_bytes() == lines
    assert len(loads) == 1
    assert measured(3, "w").keys() == {"g0", "g1", "g2"}
    assert path.read_bytes().startswith(lines)
    # Other weights: everything anew, and the old lines do not count.
    assert measured(1, "other").keys() == {"g0"}
    assert len(path.read_bytes().splitlines()) == 4


def test_memory_that_does_not_do_halves_the_batch(
    llm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perplexity, "load_model", lambda name: llm)
    sizes = []
    read = perplexity._read

    def small(loaded: LoadedModel, rows: list[object]) -> list[float]:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        return read(loaded, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(perplexity, "_read", small)
    items = [_item(number, "dog dog") for number in range(4)]
    path = tmp_path / perplexity.FILE
    found = perplexity.measure_missing(items, path=path, model="m", weights="w", batch_size=4)
    assert len(found) == 4
    assert sizes == [4, 2, 2]


def test_the_table_has_quartiles_of_each_model_and_attack() -> None:
    items = [_item(number, "x", model="defended") for number in range(3)]
    items.append(_item(3, "x", model="base"))
    losses = {"g0": 0.0, "g1": math.log(3), "g2": math.log(9), "g3": math.log(2)}
    table = perplexity.perplexity_table([("prefill", item) for item in items], losses)
    defended = table["defended"]["prefill"]
    assert defended["n"] == 3
    assert (defended["low"], defended["value"], defended["high"]) == pytest.approx((2, 3, 6))
    assert table["base"]["prefill"]["value"] == pytest.approx(2)
    assert perplexity.quartiles([])["value"] is None
