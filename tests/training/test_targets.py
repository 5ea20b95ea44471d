"""Reroute targets that are fixed directions: where they come from, and runs with them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcb.errors import MmcbError
from mmcb.models.families import FAMILIES
from mmcb.training.batches import PixelCache
from mmcb.training.config import TrainingConfig
from mmcb.training.examples import EncodedExample
from mmcb.training.recipes import read_recipe, resolve_recipe
from mmcb.training.run import train
from mmcb.training.targets import MOST_ANCHORS, find_anchors, mean_states, random_positive
from mmcb.training.trainer import read_metrics
from tests.training.data import write_refusals
from tests.training.helpers import KINDS, Load, encoded, tiny_config, tiny_recipe

EOS = 2


def _example(kind: Any, *, number: int = 0, task: str = "question", end: int = EOS) -> Any:
    ids = (1, 5, 6, 7, 8, 9, end)
    return EncodedExample(f"{kind}-{number}", kind, ids, 1, None, 4, 0, task)


def test_the_anchor_is_the_token_before_the_refusal_or_before_the_end() -> None:
    refused, answered = _example("retain", task="refusal"), _example("retain", number=1)
    examples = [_example("circuit_breaker", task="refusal"), refused, answered]
    assert find_anchors(examples, "refusal", eos_id=EOS) == [(refused, 3)]
    assert find_anchors(examples, "eos", eos_id=EOS) == [(refused, 5), (answered, 5)]


def test_cut_answers_have_no_end_and_many_are_thinned_out() -> None:
    with pytest.raises(MmcbError, match="no answer with an end"):
        find_anchors([_example("retain", end=9)], "eos", eos_id=EOS)
    many = [_example("retain", number=i) for i in range(3 * MOST_ANCHORS)]
    found = [example.id for example, _ in find_anchors(many, "eos", eos_id=EOS)]
    assert len(set(found)) == MOST_ANCHORS
    assert found[-1] == f"retain-{3 * MOST_ANCHORS - 3}"  # from all over the set


def test_a_refusal_whose_place_was_cut_off_is_no_anchor() -> None:
    """With --mask all a request longer than --max-length stays, and its answer is gone."""
    whole = _example("retain", task="refusal")
    cut = dataclasses.replace(whole, input_ids=whole.input_ids[:3])
    assert find_anchors([cut, whole], "refusal", eos_id=EOS) == [(whole, 3)]
    with pytest.raises(MmcbError, match="no refusal"):
        find_anchors([cut], "refusal", eos_id=EOS)


def test_a_random_target_is_positive_of_length_1_and_the_seeds() -> None:
    first, again, other = (random_positive(2, width=96, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first >= 0).all()
    assert first.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_does_not_depend_on_order_or_adapter(load: Load, data_folder, kind: str) -> None:
    loaded = load(kind)
    recipe = tiny_recipe(loaded)
    examples = encoded(data_folder, loaded, recipe).examples
    anchors = find_anchors(examples, "eos", eos_id=int(loaded.tokenizer.eos_token_id))
    pixels = PixelCache(loaded)
    first = mean_states(loaded, anchors, layers=(3, 4), pixels=pixels)
    again = mean_states(loaded, anchors[::-1], layers=(3, 4), pixels=pixels)
    assert first.shape == (2, 96)
    assert torch.allclose(first, again, atol=1e-5)


def test_only_the_papers_loss_starts_on_a_saddle() -> None:
    family = FAMILIES["mistral"]
    steps = {
        target: resolve_recipe(TrainingConfig(reroute_target=target), family).escape_steps
        for target in ("rr", "refusal", "eos", "randp")
    }
    assert steps == {"rr": 40, "refusal": 0, "eos": 0, "randp": 0}


def test_paper_compat_has_no_other_target() -> None:
    config = TrainingConfig(reroute_target="eos", paper_compat=True)
    with pytest.raises(MmcbError, match="no --reroute-target eos"):
        resolve_recipe(config, FAMILIES["mistral"])


@pytest.fixture
def config(model_folders: dict[str, Path], data_folder: Path, tmp_path: Path) -> TrainingConfig:
    return tiny_config(model=str(model_folders["llm"]), data=data_folder, out=tmp_path / "run")


def test_without_refusals_the_run_says_where_to_get_them(config: TrainingConfig) -> None:
    with pytest.raises(MmcbError, match="the retain set has no refusal") as caught:
        train(config.model_copy(update={"reroute_target": "refusal"}))
    assert "--refusal-fraction" in str(caught.value.hint)


@pytest.mark.parametrize("target", ["refusal", "eos", "randp"])
def test_a_run_nears_its_target_and_its_recipe_says_so(
    config: TrainingConfig, tmp_path: Path, target: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_refusals(folder)
    changes = {"reroute_target": target, "data": folder, "steps": 12, "horizon": 1000}
    run = train(config.model_copy(update=changes))
    rows = read_metrics(run)
    assert read_recipe(run / "recipe.json").reroute_target == target
    assert rows[0]["reroute_cosine"] > 0.999
    assert rows[-1]["reroute_loss"] < rows[0]["reroute_loss"] - 0.05
    with pytest.raises(MmcbError, match="reroute_target"):
        train(config.model_copy(update={**changes, "reroute_target": "rr"}))
