"""A tiny random model of each kind and a data folder as synthesis writes it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmcb.models.loading import LoadedModel, load_model
from tests.tiny_models import make_tiny_llm, make_tiny_vlm
from tests.training.data import write_data


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"llm": make_tiny_llm(folder / "llm"), "vlm": make_tiny_vlm(folder / "vlm")}


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sets, half of the examples with an image, two held-out records in each."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def load(model_folders: dict[str, Path]) -> Callable[..., LoadedModel]:
    """Load a tiny model with the blocks of the test recipe."""

    def load_kind(kind: str, *, num_blocks: int | None = 4, dtype: str = "auto") -> LoadedModel:
        folder = str(model_folders[kind])
        return load_model(folder, num_blocks=num_blocks, device="cpu", dtype=dtype)

    return load_kind
