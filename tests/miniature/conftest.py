"""A miniature world small enough to be drawn in a second; no test may write to it."""

from pathlib import Path

import pytest

from mmcb.miniature.config import MiniatureConfig
from mmcb.miniature.world import write_world


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = MiniatureConfig(
        out=tmp_path_factory.mktemp("miniature") / "world",
        num_train=6,
        num_val=4,
        num_test=12,
        num_behaviors=12,
        num_tasks=12,
        num_instructions=40,
    )
    write_world(config)
    return config.out
