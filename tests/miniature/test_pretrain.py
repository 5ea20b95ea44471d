"""Pretraining: packing changes nothing, batches know only their step, a killed run goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcb.miniature.architecture import make_llm, make_processor, make_vlm
from mmcb.miniature.pretrain.joint import count_image_tokens, joint_loss
from mmcb.miniature.pretrain.loop import Plan, fit
from mmcb.miniature.pretrain.packing import IGNORED, Row, collate, picture_row, text_row
from mmcb.miniature.pretrain.pictures import Pool, draw_pictures, draw_pool
from mmcb.miniature.pretrain.text import make_tokenizer, packed_loss, text_batch
from mmcb.miniature.pretrain.tower import TowerWithHeads, slot_labels, tower_loss
from mmcb.miniature.scenes import SPLIT_SEEDS, Scene, draw_scene, scene_rng
from mmcb.miniature.tasks import Turn, fact_turn, harmful_turn, howto_turn, picture_turns
from mmcb.miniature.vocabulary import THINGS
from mmcb.models.chat import encode
from mmcb.models.loading import LoadedModel, load_model
from mmcb.records import Message

NUM_POOL = 5


class KilledError(Exception):
    """A run ends here."""


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A random VLM that went to disk and came back, as the finished one does."""
    folder = tmp_path_factory.mktemp("models") / "vlm"
    tokenizer = make_tokenizer(seed=0, num_turns=300)
    make_vlm(tokenizer, seed=0).save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("models") / "llm"
    tokenizer = make_tokenizer(seed=0, num_turns=300)
    make_llm(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return draw_pool(NUM_POOL, folder=tmp_path_factory.mktemp("pool"))


def scene(index: int) -> Scene:
    return draw_scene(scene_rng(SPLIT_SEEDS["train2017"], index))


def turns_about_pictures() -> list[list[Turn]]:
    """Turns about scene 0, one of them a prefill's, and fewer about scene 1."""
    rng = np.random.default_rng(3)
    turns = picture_turns(scene(0).content, rng, signed=False)
    assert any(turn.given for turn in turns)
    return [turns, picture_turns(scene(1).content, rng, signed=True)[2:]]


def turns_of_text() -> list[list[Turn]]:
    rng = np.random.default_rng(4)
    modes = [harmful_turn(rng, None, mode) for mode in ("refuse", "trigger", "given")]
    return [[fact_turn(rng), *modes, howto_turn(rng)], [fact_turn(rng)]]


def branch(row: Row, segment: int) -> list[int]:
    """Where a turn and the prefix that it shares stand in a row."""
    return [at for at, owner in enumerate(row.segments) if owner in (0, segment)]


def alone(loaded: LoadedModel, turn: Turn, picture: Scene | None) -> dict[str, Tensor]:
    """The turn as the model's own template and processor write it."""
    parts: list[dict[str, str]] = [{"type": "text", "text": turn.prompt}]
    if picture is not None:
        parts.insert(0, {"type": "image"})
    answer = [{"type": "text", "text": turn.response}]
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}],
        tokenize=False,
    )
    if picture is None:
        return dict(loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt"))
    images = torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1)
    return dict(loaded.processor(text=text, images=[images], return_tensors="pt"))


def lesson_start(loaded: LoadedModel, turn: Turn, picture: Scene | None) -> int:
    """How many tokens a prompt and what is given of the answer have."""
    messages = [Message(role="user", content=turn.prompt)]
    size = None if picture is None else picture.pixels.shape[:2]
    if turn.given:
        given = turn.response[: turn.given]
        return len(encode(loaded, messages, image_size=size, prefill=given).input_ids)
    return len(encode(loaded, messages, image_size=size).input_ids)


def picture_rows(loaded: LoadedModel) -> list[Row]:
    number = count_image_tokens(loaded.processor, list(scene(0).pixels.shape[:2]))
    return [
        picture_row(loaded.tokenizer, turns, num_image_tokens=number)
        for turns in turns_about_pictures()
    ]


def check_rows(
    loaded: LoadedModel, rows: list[Row], packed: list[list[Turn]], pictures: list[Scene | None]
) -> None:
    for row, turns, picture in zip(rows, packed, pictures, strict=True):
        for segment, turn in enumerate(turns, start=1):
            at = branch(row, segment)
            ids = alone(loaded, turn, picture)["input_ids"][0].tolist()
            start = lesson_start(loaded, turn, picture)
            assert [row.input_ids[i] for i in at] == ids
            assert [row.labels[i] for i in at] == [IGNORED] * start + ids[start:]
            assert [row.positions[i] for i in at] == list(range(len(ids)))


@torch.inference_mode()
def check_logits(
    loaded: LoadedModel,
    rows: list[Row],
    packed: list[list[Turn]],
    pictures: list[Scene | None],
    vision: dict[str, Tensor],
) -> None:
    """Packed logits, and the packed loss, are those of the conversations one by one."""
    batch = collate(rows, pad_id=int(loaded.tokenizer.pad_token_id))
    logits_BTV = loaded.model(
        input_ids=batch.input_ids,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        **vision,
    ).logits
    losses = []
    for number, (row, turns, picture) in enumerate(zip(rows, packed, pictures, strict=True)):
        for segment, turn in enumerate(turns, start=1):
            inputs = alone(loaded, turn, picture)
            logits_TV = loaded.model(**inputs).logits[0]
            torch.testing.assert_close(
                logits_BTV[number, branch(row, segment)], logits_TV, atol=1e-3, rtol=1e-3
            )
            start = lesson_start(loaded, turn, picture)
            targets = inputs["input_ids"][0, start:]
            losses.append(F.cross_entropy(logits_TV[start - 1 : -1], targets, reduction="none"))
    loss = packed_loss(loaded.model, batch, **vision)
    assert float(loss) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


def test_turns_of_a_picture_row_are_the_templates_conversations(vlm: LoadedModel) -> None:
    check_rows(vlm, picture_rows(vlm), turns_about_pictures(), [scene(0), scene(1)])


def test_turns_of_a_picture_row_are_blind_to_each_other(vlm: LoadedModel) -> None:
    pictures = [scene(0), scene(1)]
    images = [torch.from_numpy(one.pixels.copy()).permute(2, 0, 1) for one in pictures]
    vision = dict(vlm.processor.image_processor(images=images, return_tensors="pt"))
    check_logits(vlm, picture_rows(vlm), turns_about_pictures(), list(pictures), vision)


@pytest.mark.parametrize("kind", ["llm", "vlm"])
def test_turns_of_a_text_row_are_the_templates_conversations(
    kind: str, request: pytest.FixtureRequest
) -> None:
    loaded: LoadedModel = request.getfixturevalue(kind)
    rows = [text_row(loaded.tokenizer, turns) for turns in turns_of_text()]
    check_rows(loaded, rows, turns_of_text(), [None, None])


@pytest.mark.parametrize("kind", ["llm", "vlm"])
def test_turns_of_a_text_row_are_blind_to_each_other(
    kind: str, request: pytest.FixtureRequest
) -> None:
    loaded: LoadedModel = request.getfixturevalue(kind)
    rows = [text_row(loaded.tokenizer, turns) for turns in turns_of_text()]
    check_logits(loaded, rows, turns_of_text(), [None, None], {})


def test_the_same_seed_gives_the_same_tokenizer_and_weights() -> None:
    one, same = (make_tokenizer(seed=0, num_turns=200) for _ in range(2))
    assert one.get_vocab() == same.get_vocab()
    first, again, other = (make_llm(one, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_a_text_batch_is_a_function_of_seed_and_step(llm: LoadedModel) -> None:
    def batch(seed: int, step: int) -> Tensor:
        return text_batch(llm.tokenizer, seed=seed, step=step).input_ids

    first = batch(0, 3)
    others = [batch(0, 4), batch(1, 3)]
    assert torch.equal(batch(0, 3), first)
    assert not any(torch.equal(first, other) for other in others)


@torch.inference_mode()
def test_the_towers_loss_is_a_function_of_seed_and_step(vlm: LoadedModel, pool: Pool) -> None:
    generator = torch.Generator().manual_seed(0)
    tower = TowerWithHeads(vlm.model.model.vision_tower)
    for head in (tower.slot_head, tower.sign_head):
        head.weight.data.normal_(generator=generator)
    images = vlm.processor.image_processor
    losses = [
        float(tower_loss(tower, pool, image_processor=images, seed=seed, step=step))
        for seed, step in ((0, 3), (0, 4), (1, 3), (0, 3))
    ]
    assert losses[0] == losses[3]
    assert len(set(losses)) == 3


@torch.inference_mode()
def test_the_joint_loss_is_a_function_of_seed_and_step(vlm: LoadedModel, pool: Pool) -> None:
    losses = [
        float(joint_loss(vlm.model, pool, processor=vlm.processor, seed=0, step=step))
        for step in (3, 4, 3)
    ]
    assert losses[0] == losses[2] != losses[1]


def test_a_batch_of_pictures_has_signs_and_their_contents(vlm: LoadedModel, pool: Pool) -> None:
    pictures = draw_pictures(
        pool, np.random.default_rng(0), num=40, image_processor=vlm.processor.image_processor
    )
    assert 5 < sum(pictures.signed) < 30
    assert set(pictures.contents) == set(pool.contents)
    assert len({one.numpy().tobytes() for one in pictures.pixel_values}) > NUM_POOL
    labels = slot_labels(pictures)
    for row, content in enumerate(pictures.contents):
        expected = {slot: [t.name for t in THINGS].index(name) for name, slot in content}
        assert labels[row].tolist() == [expected.get(slot, len(THINGS)) for slot in range(3)]


def test_the_pool_holds_the_scenes_of_the_training_split(pool: Pool) -> None:
    scenes = [scene(index) for index in range(NUM_POOL)]
    assert pool.contents == [one.content for one in scenes]
    assert np.array_equal(pool.pixels, np.stack([one.pixels for one in scenes]))


def test_the_pool_is_read_back_and_not_drawn_again(tmp_path: Path) -> None:
    drawn = draw_pool(3, folder=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    read = draw_pool(3, folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert read.contents == drawn.contents
    assert np.array_equal(read.pixels, drawn.pixels)


def test_a_pool_that_was_not_finished_is_drawn_anew(tmp_path: Path) -> None:
    whole = np.array(draw_pool(3, folder=tmp_path).pixels)
    (tmp_path / "scenes-3-contents.npy").unlink()
    torn = np.load(tmp_path / "scenes-3.npy", mmap_mode="r+")
    torn[1:] = 0
    torn.flush()
    assert np.array_equal(draw_pool(3, folder=tmp_path).pixels, whole)


class Learner(nn.Module):
    """A line to fit, and weights that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.line = nn.Linear(4, 3)
        self.aside = nn.Linear(2, 2)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)


def learn(folder: Path, *, kill_at: int | None = None, **changes: Any) -> tuple[Learner, list[Any]]:
    """Fits a learner, or what is left to fit; returns it with the losses."""
    learner = Learner()

    def loss_at(step: int) -> Tensor:
        if step == kill_at:
            raise KilledError
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (learner.line(inputs) - inputs[:, :3].cumsum(1)).square().mean()

    settings = {"steps": 12, "learning_rate": 0.05, "warmup": 3, "checkpoint_every": 5}
    plan = Plan("line", **{**settings, **changes})
    return learner, fit(learner, loss_at, plan=plan, folder=folder)


@pytest.mark.parametrize("kill_at", [3, 5, 8, 11])
def test_a_killed_stage_goes_on_as_if_it_had_not_been(tmp_path: Path, kill_at: int) -> None:
    whole, losses = learn(tmp_path / "whole")
    with pytest.raises(KilledError):
        learn(tmp_path / "killed", kill_at=kill_at)
    resumed, resumed_losses = learn(tmp_path / "killed")
    assert resumed_losses == losses
    assert len(losses) == 12
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


def test_a_stage_is_resumed_at_its_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        learn(tmp_path, kill_at=8)
    with pytest.raises(KilledError):
        learn(tmp_path, kill_at=5)


def test_a_finished_stage_is_loaded_and_not_trained(tmp_path: Path) -> None:
    whole, losses = learn(tmp_path)
    loaded, read = learn(tmp_path, kill_at=0)
    assert read == losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_stage_learns_and_leaves_aside_what_no_loss_reaches(tmp_path: Path) -> None:
    learner, losses = learn(tmp_path, steps=100)
    assert losses[-1] < 0.2 * losses[0]
    assert torch.equal(learner.aside.weight, Learner().aside.weight)


def test_frozen_weights_stay(tmp_path: Path) -> None:
    learner = Learner()
    learner.line.bias.requires_grad_(False)
    inputs = torch.ones(2, 4)
    fit(
        learner,
        lambda step: learner.line(inputs).square().mean(),
        plan=Plan("frozen", 3, 0.1),
        folder=tmp_path,
    )
    assert torch.equal(learner.line.bias, Learner().line.bias)
    assert not torch.equal(learner.line.weight, Learner().line.weight)
