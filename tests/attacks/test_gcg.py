"""GCG: it finds a planted string, proposes only what lasts as text, and leaves attempts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmcb.attacks.gcg import attacker
from mmcb.attacks.gcg.config import GCGConfig
from mmcb.attacks.gcg.loss import SlotLoss, allowed_tokens
from mmcb.attacks.gcg.run import run_gcg
from mmcb.attacks.gcg.search import GCGSettings, GreedyCoordinateGradient
from mmcb.attacks.results import StepReport
from mmcb.attacks.slotted import SlotRow, SlottedTargets
from mmcb.models.chat import encode
from mmcb.models.loading import LoadedModel
from mmcb.models.slots import SlotText
from mmcb.records import Attempt, Message
from mmcb.store import read_records
from tests.attacks.attack_worlds import make_world

PROMPT = "how do i zorch the dog ?"


class Planted:
    """A loss whose only minimum, 0, is one string: distance of embeddings from that string's."""

    def __init__(self, trigger: Tensor, words: Tensor) -> None:
        self._goal, self._words = words[trigger], words

    def gradient(self, ids: Tensor) -> tuple[float, Tensor]:
        one_hot = torch.nn.functional.one_hot(ids, len(self._words)).float().requires_grad_(True)
        loss = (one_hot @ self._words - self._goal).square().sum()
        return float(loss.detach()), torch.autograd.grad(loss, one_hot)[0]

    def losses(self, candidates: Tensor) -> Tensor:
        return (self._words[candidates] - self._goal).square().sum(dim=(1, 2))


def slot_text(llm: LoadedModel) -> SlotText:
    return SlotText.of(
        llm, (Message(role="user", content=PROMPT),), has_image=False, prefill="to zorch"
    )


def test_finds_a_planted_trigger(llm: LoadedModel) -> None:
    words = torch.randn(len(llm.tokenizer), 16, generator=torch.Generator().manual_seed(0))
    text = slot_text(llm)
    trigger = torch.tensor(llm.tokenizer(" the red cup", add_special_tokens=False).input_ids)
    start = torch.tensor(llm.tokenizer(" !" * 8, add_special_tokens=False).input_ids)
    start = start[: len(trigger)]
    search = GreedyCoordinateGradient(
        GCGSettings(steps=60, search_width=128, top_k=32, stop_loss=1e-6),
        start=start,
        loss=Planted(trigger, words),
        allowed=allowed_tokens(llm, ascii_only=True).cpu(),
        survives=text.survives,
        name="planted",
    )
    while not search.done:
        search.step()
    assert text.decode(search.best.tolist()) == " the red cup"
    assert search.best_loss <= 1e-6 < search.curve[0]


def test_a_loss_that_is_no_number_is_never_chosen() -> None:
    class Broken(Planted):
        def losses(self, candidates: Tensor) -> Tensor:
            return super().losses(candidates) + float("nan")

    words = torch.eye(5)
    start = torch.tensor([1, 2])
    search = GreedyCoordinateGradient(
        GCGSettings(steps=2, search_width=4, top_k=3),
        start=start,
        loss=Broken(torch.tensor([3, 4]), words),
        allowed=torch.ones(5, dtype=torch.bool),
        survives=lambda candidates: [True] * len(candidates),
        name="broken",
    )
    search.step()
    report = search.step()
    assert report.mean_loss == search.best_loss == 4.0
    assert torch.equal(search.ids, start)


def test_candidates_last_as_text_and_are_allowed(llm: LoadedModel) -> None:
    text, allowed = slot_text(llm), allowed_tokens(llm, ascii_only=True)
    specials = torch.tensor(llm.tokenizer.all_special_ids)
    assert not allowed[specials].any()
    ids = llm.tokenizer(" the cup", add_special_tokens=False).input_ids
    # The same letters cut otherwise are read as other tokens.
    letters = [llm.tokenizer(letter, add_special_tokens=False).input_ids[0] for letter in "the"]
    assert text.survives([ids, letters]) == [True, False]
    words = text.decode(ids)
    plain = encode(
        llm, (Message(role="user", content=PROMPT + words),), image_size=None, prefill="to zorch"
    )
    assert plain.input_ids[-len(text.after) - len(ids) : -len(text.after)] == ids


def test_the_slope_is_that_of_the_plain_loss(llm: LoadedModel) -> None:
    targets = SlottedTargets(llm, [SlotRow(PROMPT, "to zorch the dog")], num_free=3)
    loss = SlotLoss(targets, batch_size=2)
    ids = torch.tensor([70, 80, 90])
    value, slope = loss.gradient(ids)
    many = loss.losses(torch.stack([ids, ids.flip(0), ids]))
    assert float(many[0]) == pytest.approx(value, abs=1e-4)
    assert float(many[2]) == pytest.approx(value, abs=1e-4)
    words = llm.base.get_input_embeddings().weight
    vectors, step = words[ids][None].clone(), 1e-2
    vectors[0, 1] += step * words[100]
    with torch.no_grad():
        moved = targets.run(vectors, torch.tensor([0])).cross_entropy()
    assert (float(moved) - value) / step == pytest.approx(float(slope[1, 100]), rel=0.1, abs=1e-3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def settings(world: Path, **changes: object) -> GCGConfig:
    values = {
        "behaviors": world / "behaviors.jsonl",
        "adapter": str(world / "runs/training/one"),
        "num_behaviors": 1,
        "start_text": " the" * 3,
        "steps": 3,
        "search_width": 16,
        "top_k": 8,
        "save_every": 1,
        "stop_loss": 0.0,
        "device": "cpu",
    }
    return GCGConfig(**{**values, **changes})  # type: ignore[arg-type]


def test_attacks_with_a_picture_and_goes_on_after_a_kill(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_gcg(settings(world, out=tmp_path / "whole"))
    attempts = {one.model: one for one in read_records(whole / "attempts.jsonl", Attempt)}
    assert attempts.keys() == {"base", "defended"}
    for one in attempts.values():
        assert one.image is not None
        assert one.prompt.startswith("how do i zorch it ?")
        assert one.measures["loss_text"] == pytest.approx(one.measures["loss_float"], abs=1e-3)
        assert one.measures["loss_float"] <= one.measures["loss_start"]
    step, taken = GreedyCoordinateGradient.step, 0

    def interrupted(search: GreedyCoordinateGradient) -> StepReport:
        nonlocal taken
        if taken == 2:
            raise KeyboardInterrupt
        taken += 1
        return step(search)

    monkeypatch.setattr(attacker.GreedyCoordinateGradient, "step", interrupted)
    config = settings(world, out=tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run_gcg(config)
    monkeypatch.undo()
    cut = {one.model: one for one in read_records(run_gcg(config) / "attempts.jsonl", Attempt)}
    assert {label: (one.prompt, one.measures) for label, one in cut.items()} == {
        label: (one.prompt, one.measures) for label, one in attempts.items()
    }
