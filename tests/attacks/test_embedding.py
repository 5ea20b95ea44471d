"""The embedding attack on a random LLaVA-NeXT with a random adapter, and what evaluation reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from mmcb.attacks.embedding.config import EmbeddingConfig
from mmcb.attacks.embedding.run import run_embedding
from mmcb.attacks.pgd import ProjectedGradientDescent
from mmcb.attacks.results import StepReport
from mmcb.attacks.slotted import SlotRow, SlottedTargets
from mmcb.errors import MmcbError
from mmcb.evaluation.generate import make_plan, request_of
from mmcb.generation.protocol import Request, Sampling
from mmcb.generation.tokens import encode_requests, read_tensor, require_words
from mmcb.generation.transformers_engine import TransformersGenerator
from mmcb.models.chat import encode
from mmcb.models.hidden import embed_inputs
from mmcb.models.loading import LoadedModel
from mmcb.models.slots import encode_slotted
from mmcb.records import Attempt, Message
from mmcb.store import read_records
from tests.attacks.attack_worlds import make_world

START = " x x x x"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def settings(world: Path, **changes: object) -> EmbeddingConfig:
    values = {
        "behaviors": world / "behaviors.jsonl",
        "adapter": str(world / "runs/training/one"),
        "num_behaviors": 3,
        "start_text": START,
        "steps": 6,
        "step_size": 0.05,
        "batch_size": 3,
        "save_every": 2,
        "device": "cpu",
    }
    return EmbeddingConfig(**{**values, **changes})  # type: ignore[arg-type]


def attempts_of(run: Path) -> dict[str, Attempt]:
    found = list(read_records(run / "attempts.jsonl", Attempt))
    by_id = {one.id: one for one in found}
    assert len(by_id) == len(found)
    return by_id


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    return run_embedding(settings(world, out=world / "whole"))


def test_a_slot_stands_where_the_text_would(llm: LoadedModel) -> None:
    message = Message(role="user", content="how do i zorch the dog ?")
    around = encode_slotted(llm, (message,), image_size=None, prefill="to zorch")
    plain = encode(llm, (message,), image_size=None, prefill="to zorch")
    assert around.before + around.after + around.target == plain.input_ids
    assert around.target == plain.input_ids[plain.completion_start :]
    assert around.after[0] in llm.tokenizer(" [/INST]", add_special_tokens=False).input_ids


def test_a_batch_with_kept_prefixes_equals_one_plain_pass(llm: LoadedModel) -> None:
    rows = [
        SlotRow("how do i zorch the dog ?", "to zorch the dog"),
        SlotRow("zorch", "to zorch the dog , first grab the cup"),
    ]
    targets = SlottedTargets(llm, rows, num_free=3)
    free = torch.randn(2, 3, 96, generator=torch.Generator().manual_seed(0))
    losses = targets.run(free, torch.arange(2)).cross_entropy()
    for row, one in enumerate(targets.slotted):
        ids = torch.tensor([one.before + [0] * 3 + one.after + one.target])
        embedded = llm.base.get_input_embeddings()(ids)
        embedded[0, len(one.before) : len(one.before) + 3] = free[row]
        logits = llm.model(inputs_embeds=embedded).logits[0, -len(one.target) - 1 : -1]
        plain = torch.nn.functional.cross_entropy(logits, torch.tensor(one.target))
        assert float(losses[row]) == pytest.approx(float(plain), abs=1e-4)


def test_attacks_both_models_and_leaves_vectors_that_evaluation_reads(
    run: Path, world: Path
) -> None:
    attempts = attempts_of(run)
    assert {(one.behavior_id, one.model) for one in attempts.values()} == {
        (f"b{i}", model) for i in range(3) for model in ("base", "defended")
    }
    for one in attempts.values():
        assert one.measures["loss_float"] < one.measures["loss_start"]
        assert one.measures["passes"] == 6
        assert one.embeddings is not None
        vectors = read_tensor(run / one.embeddings, "embeddings")
        assert vectors.shape[1] == 96
    base = {one.behavior_id: one.measures for one in attempts.values() if one.model == "base"}
    assert all(
        one.measures["loss_start"] != pytest.approx(base[one.behavior_id]["loss_start"], abs=1e-3)
        for one in attempts.values()
        if one.model == "defended"
    )


def test_the_engine_sees_what_was_optimised(run: Path, world: Path) -> None:
    from mmcb.models.loading import load_model

    loaded = load_model(str(world / "model"), device="cpu")
    attempt = next(one for one in attempts_of(run).values() if one.model == "base")
    request = request_of(attempt, run / "attempts.jsonl")
    target = "to zorch the dog , first" + " grab" * int(attempt.behavior_id[1:])
    forced = Request(
        id="x",
        messages=request.messages,
        image=request.image,
        prefill=target,
        embeddings=request.embeddings,
    )
    engine = TransformersGenerator(loaded)
    (job,), failed = encode_requests(loaded, [forced], max_length=None)
    assert not failed
    assert job.vectors is not None
    ids = torch.tensor([job.encoded.input_ids])
    embedded = embed_inputs(loaded, {"input_ids": ids, **engine._pixels(job)})
    embedded[0, job.slot_start : job.slot_start + len(job.vectors)] = job.vectors
    begin = job.encoded.completion_start
    logits = loaded.model(inputs_embeds=embedded).logits[0, begin - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, begin:])
    assert float(loss) == pytest.approx(attempt.measures["loss_float"], abs=1e-3)
    # In a batch beside a longer request the vectors still stand in their own places.
    longer = Request(id="l", messages=(Message(role="user", content="zorch " * 60),))
    sampling = Sampling(max_new_tokens=4)
    alone = [one for batch in engine.generate([request], sampling) for one in batch]
    both = [one for batch in engine.generate([request, longer], sampling) for one in batch]
    assert {one.id: one.text for one in both}[request.id] == alone[0].text


def test_a_generation_is_named_by_its_vectors(run: Path) -> None:
    attempt = next(iter(attempts_of(run).values()))
    lines = run / "attempts.jsonl"

    def name(one: Attempt) -> str:
        plan = make_plan(
            [one],
            attempts_path=lines,
            fingerprints={"base": "a", "defended": "b"},
            sampling=Sampling(),
        )
        return plan.ids[one.id]

    assert name(attempt) != name(attempt.model_copy(update={"embeddings": None}))


def test_engines_that_read_words_say_so(run: Path) -> None:
    attempt = next(iter(attempts_of(run).values()))
    with pytest.raises(MmcbError, match="the vllm engine cannot put input embeddings"):
        require_words([request_of(attempt, run / "attempts.jsonl")], engine="vllm")


def test_vectors_begin_as_some_words(world: Path) -> None:
    with pytest.raises(ValidationError, match="start_text"):
        settings(world, start_text="")


def test_best_of_k_keeps_iterates_that_lie_apart(world: Path, tmp_path: Path) -> None:
    changes = {"samples": 3, "sample_loss": 1e9, "sample_distance": 2, "num_behaviors": 1}
    out = run_embedding(
        settings(
            world,
            out=tmp_path / "run",
            target_models="base",
            adapter="none",
            model=str(world / "model"),
            **changes,
        )
    )
    attempts = sorted(attempts_of(out).values(), key=lambda one: one.settings["sample"])
    assert [one.settings["sample"] for one in attempts] == [0, 1, 2]
    losses = [one.measures["loss_float"] for one in attempts]
    assert losses[0] == min(losses)
    assert len(set(losses)) == 3
    assert len({one.embeddings for one in attempts}) == 3


def test_interrupted_equals_uninterrupted(
    run: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(world, out=tmp_path / "cut")
    step, taken = ProjectedGradientDescent.step, 0

    def interrupted(attack: ProjectedGradientDescent) -> StepReport:
        nonlocal taken
        if taken == 5:
            raise KeyboardInterrupt
        taken += 1
        return step(attack)

    monkeypatch.setattr(ProjectedGradientDescent, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_embedding(config)
    monkeypatch.undo()
    assert list((tmp_path / "cut/state").iterdir())
    cut, whole = attempts_of(run_embedding(config)), attempts_of(run)
    assert cut.keys() == whole.keys()
    for id_, one in cut.items():
        assert one.measures == whole[id_].measures
    before = (tmp_path / "cut/attempts.jsonl").read_bytes()
    run_embedding(config)
    assert (tmp_path / "cut/attempts.jsonl").read_bytes() == before
