from pathlib import Path

import pytest

from mmcb.models.loading import LoadedModel, load_model
from tests.tiny_models import make_tiny_llm, make_tiny_vlm


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vlm(tmp_path_factory.mktemp("models") / "vlm")


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("models") / "llm")


@pytest.fixture(scope="session")
def vlm(vlm_folder: Path) -> LoadedModel:
    return load_model(str(vlm_folder))


@pytest.fixture(scope="session")
def llm(llm_folder: Path) -> LoadedModel:
    return load_model(str(llm_folder))
