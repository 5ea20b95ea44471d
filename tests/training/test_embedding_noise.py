"""Noise on circuit-breaker embeddings: what moves, how far, and what it depends on."""

import pytest
import torch

from mmcb.models.hidden import embed_inputs
from mmcb.training.batches import Batch, PixelCache
from mmcb.training.embedding_noise import shaken
from mmcb.training.examples import EncodedExample
from mmcb.training.recipes import recipe_of
from mmcb.training.reroute import Rerouter, add_adapter
from tests.training.helpers import KINDS, Load, encoded, tiny_config, tiny_recipe

CPU = torch.device("cpu")


class _Setting:
    """A tiny model with an adapter, trained with noise, and examples of both sets."""

    def __init__(self, load: Load, data_folder, kind: str, *, most: float = 0.5) -> None:
        loaded = load(kind)
        self.recipe = tiny_recipe(loaded, embedding_noise=most, lora_dropout=0.0)
        self.examples = encoded(data_folder, loaded, self.recipe).examples
        self.loaded = add_adapter(loaded, self.recipe, seed=0)
        self.rerouter = Rerouter(self.loaded, self.recipe, seed=0)
        self.pixels = PixelCache(loaded)

    def some(self, kind: str, count: int) -> list[EncodedExample]:
        return [example for example in self.examples if example.kind == kind][:count]

    def batch(self, examples: list[EncodedExample]) -> Batch:
        return self.rerouter.objective.collate(examples, pixels=self.pixels)

    def moves(self, batch: Batch, *, step: int = 1, seed: int = 0) -> torch.Tensor:
        """How far each token's embedding goes, (B, T, D)."""
        embedded = embed_inputs(self.loaded, batch.model_inputs())
        noise = self.rerouter.noise
        with torch.no_grad(), noise.of(batch, seed=seed, step=step, device=CPU):
            bos_id = self.loaded.tokenizer.bos_token_id
            moved = shaken(embedded, batch, noise=noise, most=0.5, bos_id=bos_id)
        return (moved - embedded) / embedded.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
def test_circuit_breaker_examples_move_and_nothing_else(load: Load, data_folder, kind: str) -> None:
    setting = _Setting(load, data_folder, kind)
    harmful, benign = setting.some("circuit_breaker", 3), setting.some("retain", 3)
    batch = setting.batch(harmful + benign)
    lengths = setting.moves(batch).norm(dim=-1)
    assert not lengths[3:].any()  # retain rows
    assert not lengths[:, 0].any()  # BOS
    shares = []
    for row, example in enumerate(harmful):
        moved = lengths[row, 1 : len(example.input_ids)]
        assert float(moved.min()) > 0
        assert float(moved.max()) <= 0.5
        assert moved.max() - moved.min() < 1e-4  # one share for all of an example's tokens
        shares.append(round(float(moved[0]), 4))
        assert not lengths[row, len(example.input_ids) :].any()
    assert len(set(shares)) == 3


def test_it_belongs_to_the_example_the_step_and_the_seed(load: Load, data_folder) -> None:
    setting = _Setting(load, data_folder, "llm")
    first, second = setting.some("circuit_breaker", 2)
    tokens = len(first.input_ids)
    alone = setting.moves(setting.batch([first]))[0]
    company = setting.batch([second, *setting.some("retain", 2), first])
    assert torch.allclose(setting.moves(company)[3, :tokens], alone, atol=1e-6)
    assert not torch.allclose(setting.moves(company, step=2)[3, :tokens], alone, atol=0.01)
    assert not torch.allclose(setting.moves(company, seed=1)[3, :tokens], alone, atol=0.01)


def test_both_passes_see_it_in_training_alone(load: Load, data_folder) -> None:
    setting = _Setting(load, data_folder, "llm")
    batch = setting.batch(setting.some("circuit_breaker", 2) + setting.some("retain", 2))

    def states(*, training: bool) -> list[torch.Tensor]:
        rerouter = setting.rerouter.train(training)
        with torch.no_grad(), rerouter.noise.of(batch, seed=0, step=1, device=CPU):
            frozen, adapted = rerouter.hidden_states(batch)
        last = max(setting.recipe.target_layers)
        return [frozen[last], adapted[last]]

    for shaken_BTD, still_BTD in zip(states(training=True), states(training=False), strict=True):
        assert torch.equal(shaken_BTD[2:], still_BTD[2:])
        assert not torch.allclose(shaken_BTD[:2], still_BTD[:2], atol=0.01)


def test_without_noise_nothing_moves(load: Load, data_folder) -> None:
    setting = _Setting(load, data_folder, "llm", most=0.0)
    batch = setting.batch(setting.some("circuit_breaker", 2))
    embedded = embed_inputs(setting.loaded, batch.model_inputs())
    noise = setting.rerouter.noise
    with noise.of(batch, seed=0, step=1, device=CPU):
        assert shaken(embedded, batch, noise=noise, most=0.0, bos_id=1) is embedded
    assert shaken(embedded, batch, noise=noise, most=0.5, bos_id=1) is embedded  # no batch at work


def test_the_authors_have_none() -> None:
    asked = tiny_config(embedding_noise=0.5, paper_compat=True)
    assert recipe_of(asked).embedding_noise == 0
    assert recipe_of(asked.model_copy(update={"paper_compat": False})).embedding_noise == 0.5
