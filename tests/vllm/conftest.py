"""A short training run of each shipped model, with its merged checkpoint, and some pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmcb.miniature.config import MiniatureConfig
from mmcb.miniature.world import write_world
from mmcb.training.run import train
from tests.training.data import write_data
from tests.training.helpers import tiny_config


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Train a shipped model for some steps, once; its run's folder."""
    runs: dict[str, Path] = {}

    def run_of(model: str) -> Path:
        if model not in runs:
            folder = tmp_path_factory.mktemp("vllm")
            config = tiny_config(
                model=model, data=write_data(folder), out=folder / "run", merge=True,
                steps=20, target_layers=(4, 6), lora_layers=(0, 5), mask="completion",
            )  # fmt: skip
            runs[model] = train(config)
        return runs[model]

    return run_of


@pytest.fixture(scope="session")
def pictures_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature world of a few pictures."""
    out = tmp_path_factory.mktemp("world") / "world"
    few = {"num_train": 2, "num_val": 2, "num_test": 2, "num_behaviors": 2, "num_tasks": 2}
    write_world(MiniatureConfig(out=out, num_instructions=2, **few))
    return out
