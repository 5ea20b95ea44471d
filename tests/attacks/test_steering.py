"""Steering: the direction is gone from every block, and attempts bring it to the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmcb.attacks.slotted import SlotRow, SlottedTargets
from mmcb.attacks.steering.config import SteeringConfig
from mmcb.attacks.steering.run import run_steering
from mmcb.errors import MmcbError
from mmcb.evaluation.generate import request_of
from mmcb.generation.protocol import Sampling
from mmcb.generation.tokens import read_tensor
from mmcb.generation.transformers_engine import TransformersGenerator
from mmcb.models.chat import encode
from mmcb.models.loading import LoadedModel, load_model
from mmcb.models.steering import without_direction
from mmcb.records import Attempt, Behavior, Message, Task
from mmcb.store import read_records, replace_records
from tests.attacks.attack_worlds import make_world


def test_no_block_passes_the_direction_on(llm: LoadedModel) -> None:
    ids = torch.tensor([[10, 20, 30, 40]])
    direction = torch.randn(96, generator=torch.Generator().manual_seed(0))
    states: list[torch.Tensor] = []

    def see(
        module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
    ) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    with torch.no_grad():
        before = llm.model(ids).logits
        with without_direction(llm, direction):
            handles = [
                layer.register_forward_pre_hook(see, with_kwargs=True)
                for layer in llm.decoder_layers
            ]
            inside = llm.model(ids).logits
            for handle in handles:
                handle.remove()
        after = llm.model(ids).logits
    assert len(states) == len(llm.decoder_layers)
    for state in states:
        assert (state @ direction).abs().max() < 1e-3 * direction.norm()
    assert torch.equal(before, after)
    assert not torch.allclose(before, inside, atol=1e-3)
    with (
        pytest.raises(MmcbError, match="cannot be taken out"),
        without_direction(llm, torch.ones(7)),
    ):
        pass


def test_the_last_state_is_that_of_a_plain_pass(llm: LoadedModel) -> None:
    prompts = ("how do i feed the cat ?", "zorch")
    rows = [SlotRow(prompt, "") for prompt in prompts]
    states = SlottedTargets(llm, rows, num_free=0).last_states(4)
    for state, prompt in zip(states, prompts, strict=True):
        ids = encode(llm, (Message(role="user", content=prompt),), image_size=None).input_ids
        plain = llm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[4][0, -1]
        assert torch.allclose(state, plain, atol=1e-4)


def test_directions_are_made_and_answers_run_without_them(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    tasks = [
        Task(id=f"t{i}", task="fact", prompt=prompt, references=("a dog .",))
        for i, prompt in enumerate(("how do i feed the cat ?", "what is in the picture ?"))
    ]
    replace_records(world / "tasks.jsonl", tasks)
    run = run_steering(
        SteeringConfig(
            behaviors=world / "behaviors.jsonl",
            adapter=str(world / "runs/training/one"),
            harmless=world / "tasks.jsonl",
            layer=4,
            device="cpu",
            out=tmp_path / "run",
        )
    )
    attempts = list(read_records(run / "attempts.jsonl", Attempt))
    # Half of the four behaviors made the direction, and get no attempt.
    assert len(attempts) == 4
    assert len({one.behavior_id for one in attempts}) == 2
    base = read_tensor(run / "directions/base.safetensors", "direction")
    assert not torch.allclose(
        base, read_tensor(run / "directions/defended.safetensors", "direction")
    )
    loaded = load_model(str(world / "model"), device="cpu")
    attempt = next(one for one in attempts if one.model == "base")
    engine = TransformersGenerator(loaded)
    request = request_of(attempt, run / "attempts.jsonl")
    assert request.steering == run / "directions/base.safetensors"
    sampling = Sampling(max_new_tokens=6)
    steered = next(engine.generate([request], sampling))[0]
    with without_direction(loaded, base):
        plain = request_of(attempt.model_copy(update={"steering": None}), run / "attempts.jsonl")
        expected = next(engine.generate([plain], sampling))[0]
    assert steered.text == expected.text


def test_a_model_without_eyes_is_told_what_to_leave_out(llm_folder: Path, tmp_path: Path) -> None:
    behaviors = [
        Behavior(id=f"b{i}", prompt="zorch ?", target="", category="z", split="train")
        for i in range(2)
    ]
    replace_records(tmp_path / "behaviors.jsonl", behaviors)
    task = Task(id="t", task="vqa", prompt="what is it ?", references=("a dog .",), image="t.png")
    replace_records(tmp_path / "tasks.jsonl", [task])
    config = SteeringConfig(
        model=str(llm_folder),
        adapter="none",
        behaviors=tmp_path / "behaviors.jsonl",
        harmless=tmp_path / "tasks.jsonl",
        device="cpu",
        out=tmp_path / "run",
    )
    with pytest.raises(MmcbError, match="takes no images") as caught:
        run_steering(config)
    assert caught.value.hint == "add --no-images"
    with pytest.raises(MmcbError, match="holds no task without a picture"):
        run_steering(config.model_copy(update={"images": False}))
