"""Configurations, recipes and examples for the tiny models of the tests."""

from collections.abc import Callable
from pathlib import Path

from mmcb.models.loading import LoadedModel
from mmcb.training.config import TrainingConfig
from mmcb.training.examples import ExampleSet, encode_examples
from mmcb.training.mixing import Pair, mix, read_sets
from mmcb.training.recipes import Recipe, resolve_recipe
from mmcb.training.sets import find_sets

KINDS = ("llm", "vlm")

Load = Callable[..., LoadedModel]


def tiny_config(**changes: object) -> TrainingConfig:
    """A configuration of a few steps of the tiny models."""
    settings: dict[str, object] = {
        "steps": 4, "batch_size": 3, "retain_batch_size": 3, "learning_rate": 2e-3,
        "target_layers": (3, 4), "lora_layers": (2, 3), "mask": "all", "device": "cpu",
        "checkpoint_every": 2, "validate_every": 2, "evaluate": False,
        "reroute_target": "rr", "embedding_noise": 0.3,
    }  # fmt: skip
    return TrainingConfig.model_validate({"model": "tiny-llava-next", **settings, **changes})


def tiny_recipe(loaded: LoadedModel, **changes: object) -> Recipe:
    return resolve_recipe(tiny_config(**changes), loaded.family)


def read_examples(data: Path) -> list[Pair]:
    """All records of both sets of a folder of mmcb's own."""
    config = tiny_config(data=data)
    return mix(read_sets(find_sets(config), config), no_request_fraction=0.0, seed=0).pairs


def encoded(data: Path, loaded: LoadedModel, recipe: Recipe, *, split: str = "train") -> ExampleSet:
    return encode_examples(
        read_examples(data),
        loaded,
        split=split,
        masks={"circuit_breaker": recipe.mask, "retain": recipe.retain_mask},
        max_length=recipe.max_length,
    )
